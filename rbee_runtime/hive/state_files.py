"""Files of the state folder as they are read: whole and of a schema that this version knows, or a sentence why not."""

from pathlib import Path
from typing import TypeVar

import msgspec

from rbee_runtime import logs
from rbee_runtime.protocol import Message, decode

M = TypeVar("M", bound=Message)


class _Marked(Message, frozen=True, kw_only=True):
    """What every such file says, whatever else a newer version writes; files of the first version do not say it."""

    schema: int = 1


def read(path: Path, kind: type[M], *, newest: int, until_then: str) -> tuple[M | None, str]:
    """Return what a file says, None if there is none or it cannot be used, and why, for the journal and the API.

    `newest` is the schema that this version writes, `until_then` what follows for a person.
    """
    try:
        data = path.read_bytes()
        schema = decode(data, _Marked).schema
        if schema > newest:
            return None, refused(path, f"is of schema {schema}, this version reads {newest}", until_then)
        return decode(data, kind), ""
    except FileNotFoundError:
        return None, ""
    except (OSError, msgspec.MsgspecError) as error:
        return None, refused(path, f"cannot be used ({error})", until_then)


def refused(path: Path, why: str, until_then: str) -> str:
    """Return the sentence of a file that is not followed, which the journal has then."""
    said = f"{path} {why}: {until_then}"
    logs.error("state_file_refused", detail=said)
    return said
