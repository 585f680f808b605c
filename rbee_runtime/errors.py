"""Errors of the runtime.

RbeeError
├── ConfigError            a file or option is wrong; the process does not start
├── LinkError              a certificate, key or token is missing or refused
├── StateError             a file under the state directory cannot be used
├── ReferenceFormError     a model name or source is not of a known form
├── ModelStoreError        a model is absent, damaged or does not fit on disk
│   ├── DiskFullError      the model disk has no room; carries how much is needed
│   ├── ModelInUseError    somebody uses a model that is to be removed
│   ├── QuarantinedError   what came is not what was announced; it is kept aside
│   └── ModelFormatError   a file is not a whole, harmless model of a known format
├── LauncherError          systemd, an engine or the process table refused an action
│   ├── PortsTakenError    no port of the workers' range is free
│   └── NoLogError         nothing that this worker wrote is on this host
├── GuardError             a call to a container engine that is not let through, or that the engine does not answer
├── QueenCallError         the queen refuses what the keeper asks, or fails at it
│   └── QueenUnreachableError  nothing that is a queen answers
├── StaleDesiredError      a document or order of a queen that is not this hive's, or for another fleet
├── EngineError
│   ├── EngineLoadError    the model cannot be loaded; carries the exit reason
│   └── EngineCrashedError the engine died or answers garbage
└── RequestError           an answer to a client: HTTP status and OpenAI error body
    └── NotTakenError      a worker that loads or ends did nothing about a request
"""

from typing import Any


class RbeeError(Exception):
    """Root of every error that rbee raises on purpose; its text is one sentence for a person."""


class ConfigError(RbeeError):
    """A configuration file or option is wrong."""


class LinkError(RbeeError):
    """A certificate, key or token is missing, unreadable or refused."""


class StateError(RbeeError):
    """A file under the state directory cannot be read or written."""


class DamagedStateError(StateError):
    """A file under the state directory is not whole any more: somebody has to restore it or move it away."""


class ReferenceFormError(RbeeError, ValueError):
    """A model name or source does not follow the grammar."""


class ModelStoreError(RbeeError):
    """A model is absent, damaged or does not fit on the disk."""


class ModelFormatError(ModelStoreError):
    """A file is not a whole and harmless model of a format that is served."""


class DiskFullError(ModelStoreError):
    """The model disk has no room for `needed` more bytes and what stays free; what came so far is kept."""

    def __init__(self, message: str, *, needed: int = 0) -> None:
        super().__init__(message)
        self.needed = needed


class ModelInUseError(ModelStoreError):
    """A model that is to be removed is used, here or by another hive on the same store."""


class QuarantinedError(ModelStoreError):
    """Content with the wrong hash, length or format came twice; it was moved aside and is never served."""


class LauncherError(RbeeError):
    """The owner of worker processes refused an action."""


class PortsTakenError(LauncherError):
    """No port of the workers' range is free."""


class NoLogError(LauncherError):
    """Nothing that this worker wrote is on this host."""


class GuardError(RbeeError):
    """A call to a container engine that its guard lets not through; `status` is that of the HTTP answer."""

    def __init__(self, message: str, *, status: int = 403) -> None:
        super().__init__(message)
        self.status = status


class QueenCallError(RbeeError):
    """The queen refuses a call of the keeper, or fails at it."""


class QueenUnreachableError(QueenCallError):
    """Nothing answers at the queen's address in time, or what does is no queen."""


class StaleDesiredError(RbeeError):
    """A desired document or an order came from a queen that is not this hive's, or for another fleet."""


class EngineError(RbeeError):
    """An engine failed."""


class EngineLoadError(EngineError):
    """The model cannot be loaded.

    `reason` is the value of an `ExitReason` that the hive uses to decide on a retry.
    """

    def __init__(self, message: str, *, reason: str = "bad_model") -> None:
        super().__init__(message)
        self.reason = reason


class EngineCrashedError(EngineError):
    """The engine died or answered something that is not an answer; `reason` is an `ExitReason` where one is known."""

    def __init__(self, message: str, *, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason


class RequestError(RbeeError):
    """An answer to a client, in the shape that OpenAI clients understand.

    `status` is the HTTP status, `kind` OpenAI's `error.type`, `code` its `error.code`,
    `retry_after` whole seconds in 1..60 or None.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        code: str | None = None,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.code = code
        self.param = param
        self.retry_after = retry_after

    def body(self) -> dict[str, Any]:
        """Return the JSON body `{"error": {message, type, code, param}}`."""
        return {"error": {"message": str(self), "type": self.kind, "code": self.code, "param": self.param}}

    def headers(self) -> dict[str, str]:
        """Return the headers that go with the body; `x-should-retry` stops SDKs from multiplying our own retries."""
        if self.retry_after is not None:
            return {"retry-after": str(self.retry_after)}
        return {"x-should-retry": "false"} if self.status < 500 else {}


class NotTakenError(RequestError):
    """A worker that loads or ends refuses a request before it does anything about it: it may wait for any worker."""

    HEADER = "x-rbee-not-taken"

    def headers(self) -> dict[str, str]:
        """Return the headers of any refusal, and the one that tells the queen."""
        return super().headers() | {self.HEADER: "1"}
