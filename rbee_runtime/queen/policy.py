"""Which client key may call which route: one table; what no row covers is refused."""

from dataclasses import dataclass

from rbee_runtime.gateway.routes import HOT
from rbee_runtime.queen.records import Scope

READS = frozenset({"GET", "HEAD"})
CHANGES = frozenset({"POST", "PUT", "PATCH", "DELETE"})


@dataclass(frozen=True)
class Row:
    """Routes whose path equals `path`, or starts with it if it ends in '/'; `scope` None means anybody."""

    path: str
    scope: Scope | None
    methods: frozenset[str]

    def covers(self, path: str) -> bool:
        """Say whether this row is about `path`."""
        return path == self.path or (self.path.endswith("/") and path.startswith(self.path))


HEALTH, READY, METRICS, ADMIN = "/health", "/ready", "/metrics", "/api/v1/"
MODELS, MODEL = "/v1/models", "/v1/models/"

POLICY = (
    Row(HEALTH, None, READS),
    Row(READY, None, READS),
    Row(METRICS, Scope.ADMIN_READ, READS),
    Row(MODELS, Scope.INFER, READS),
    Row(MODEL, Scope.INFER, READS),
    *(Row(path.decode(), Scope.INFER, frozenset({"POST"})) for path in HOT),
    Row(ADMIN, Scope.ADMIN_READ, READS),
    Row(ADMIN, Scope.ADMIN_WRITE, CHANGES),
)


def row_for(path: str, method: str) -> Row | None:
    """Return the row that covers a path and a method; one of another method if only those are covered, or None."""
    covering = [row for row in POLICY if row.covers(path)]
    return next((row for row in covering if method in row.methods), covering[0] if covering else None)


def methods_of(path: str) -> frozenset[str]:
    """Return the methods that a path takes."""
    return frozenset(method for row in POLICY if row.covers(path) for method in row.methods)


def is_admin(path: str) -> bool:
    """Say whether a path is of the admin application, which knows its methods better than this table."""
    return path == METRICS or path.startswith(ADMIN)
