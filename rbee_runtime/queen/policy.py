"""Which client key may call which route: one table; what no row covers is refused."""

from dataclasses import dataclass

from rbee_runtime.gateway.routes import HOT
from rbee_runtime.queen.records import Scope


@dataclass(frozen=True)
class Row:
    """Routes whose path equals `path`, or starts with it if it ends in '/'; `scope` None means anybody.

    `methods` empty means that the application behind it decides.
    """

    path: str
    scope: Scope | None
    methods: frozenset[str] = frozenset()

    def covers(self, path: str) -> bool:
        """Say whether this row is about `path`."""
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))


HEALTH, READY, ADMIN = "/health", "/ready", "/api/v1/"
MODELS, MODEL = "/v1/models", "/v1/models/"

POLICY = (
    Row(HEALTH, None, frozenset({"GET", "HEAD"})),
    Row(READY, None, frozenset({"GET", "HEAD"})),
    Row(MODELS, Scope.INFER, frozenset({"GET", "HEAD"})),
    Row(MODEL, Scope.INFER, frozenset({"GET", "HEAD"})),
    *(Row(path.decode(), Scope.INFER, frozenset({"POST"})) for path in HOT),
    Row(ADMIN, Scope.ADMIN),
)


def row_for(path: str) -> Row | None:
    """Return the row that covers a path, or None."""
    return next((row for row in POLICY if row.covers(path)), None)
