"""What the hub's refusals mean, as one sentence each with what to do about it.

The hub says 401 to strangers for what does not exist and for what is private alike, and 403 to a known account that
has not accepted a gated repository's terms.
"""

from dataclasses import dataclass

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources import TransientError

CODE = "x-error-code"
MESSAGE = "x-error-message"

_TOKEN = "the credential hf-token"  # noqa: S105 - words for a person


@dataclass(frozen=True)
class Asked:
    """What was asked of which hub; `near` are names that exist there and look alike."""

    endpoint: str
    repository: str
    revision: str = ""
    with_token: bool = False
    near: tuple[str, ...] = ()

    @property
    def hint(self) -> str:
        """Return the near names as the end of a sentence, or ""."""
        return f"; did you mean {' or '.join(self.near)}" if self.near else ""


def refused(asked: Asked, *, status: int, code: str = "", message: str = "") -> ModelStoreError:
    """Return the error for an answer of `status` with the hub's own error code and message."""
    if status == 429 or status >= 500:
        return TransientError(f"the hub at {asked.endpoint} is busy or broken: {status} {message}".rstrip())
    return ModelStoreError(_by_code(asked, code) or _by_status(asked, status, message))


def _by_code(asked: Asked, code: str) -> str:
    where = f"{asked.repository} at {asked.endpoint}"
    return {
        "GatedRepo": _gated(asked),
        "RevisionNotFound": f"{where} has no revision {asked.revision or 'main'!r}{asked.hint}",
        "EntryNotFound": f"{where} does not have that file any more; name another revision",
    }.get(code, "")


def _by_status(asked: Asked, status: int, message: str) -> str:
    where = f"{asked.repository} at {asked.endpoint}"
    if status == 401 and asked.with_token:
        return f"{asked.endpoint} does not accept the token in {_TOKEN}; put a valid one there"
    if status in {401, 404}:
        return f"{where} does not exist{_or_hidden(asked)}{asked.hint}"
    if status == 403:
        return f"{where} is not open to the token in {_TOKEN}; give it the right to read this repository"
    return f"{where} cannot be listed: {status} {message}".rstrip()


def _gated(asked: Asked) -> str:
    terms = f"{asked.repository} is gated: accept its terms at {asked.endpoint}/{asked.repository}"
    if asked.with_token:
        return f"{terms} with the account of the token in {_TOKEN}"
    return f"{terms} and put a token of that account into {_TOKEN}"


def _or_hidden(asked: Asked) -> str:
    if asked.with_token:
        return f", or the token in {_TOKEN} may not see it"
    return f", or is private or gated: then put a token that may read it into {_TOKEN}"
