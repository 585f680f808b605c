"""Which web pages may use the API from a browser: none, unless the inventory names them (the Fetch standard, CORS)."""

from collections.abc import Iterable

from rbee_runtime.framing import Headers

ASKED_METHOD = b"access-control-request-method"
_WAY = b"access-control-"
_HEADERS = b"authorization, *"
"""Official clients in browsers send a dozen of their own; `*` stands for all but the one that it never stands for."""

_SHOWN = b"x-request-id, retry-after, x-should-retry"
_SECONDS = b"600"


class Origins:
    """The pages that may; each as a browser writes it, scheme, host and port."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(origin.encode() for origin in allowed)

    def headers(self, origin: bytes) -> Headers:
        """Return what an answer says to a page from there; nothing where no page may."""
        if not self._allowed:
            return []
        # A cache must not give one page the answer that says another one may.
        vary = [(b"vary", b"origin")]
        if origin not in self._allowed:
            return vary
        return [*vary, (_WAY + b"allow-origin", origin), (_WAY + b"expose-headers", _SHOWN)]

    def preflight(self, origin: bytes, methods: Iterable[str]) -> Headers:
        """Return the answer to a browser that asks before it sends, nothing if the page may not."""
        if origin not in self._allowed:
            return []
        told = ", ".join(sorted(methods)).encode()
        return [
            *self.headers(origin),
            (_WAY + b"allow-methods", told),
            (_WAY + b"allow-headers", _HEADERS),
            (_WAY + b"max-age", _SECONDS),
        ]
