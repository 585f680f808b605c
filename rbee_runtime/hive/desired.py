"""The desired document that the hive follows: checked, kept on disk, never replaced by an older one."""

import contextlib
import re
from collections import Counter
from pathlib import Path

import msgspec

from rbee_runtime import durable, logs
from rbee_runtime.errors import ReferenceFormError, RequestError, StaleDesiredError, StateError
from rbee_runtime.hive import state_files
from rbee_runtime.models.references import check_name
from rbee_runtime.protocol import Desired, DesiredAck, Message, decode, encode

_WORKER_ID = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")


SCHEMA = 1
"""Of both files; a newer one may mean something else, so it is not followed."""

_UNTIL_THEN = "workers go on as they are until the queen sends a document"


class Held(Desired, frozen=True, kw_only=True):
    """The document as it is on disk."""

    schema: int = SCHEMA


class Highest(Message, frozen=True, kw_only=True):
    """The newest document ever accepted; outlives a damaged desired.json, so that no old queen gets in then."""

    fleet: str
    epoch: int
    revision: int
    schema: int = SCHEMA


def parse(body: bytes) -> Desired:
    """Return a document that is safe to act on, or raise RequestError; ids become unit names and file names."""
    try:
        document = decode(body, Desired)
        for name in [worker.model for worker in document.workers] + [model.name for model in document.models]:
            check_name(name)
    except (msgspec.MsgspecError, ReferenceFormError) as error:
        raise RequestError(400, f"the desired document cannot be used: {error}") from error
    counts = Counter(check_worker_id(worker.id) for worker in document.workers)
    twice = next((name for name, count in counts.items() if count > 1), None)
    if twice is not None:
        raise RequestError(400, f"the desired document names worker {twice!r} twice")
    return document


def check_worker_id(worker: str) -> str:
    """Return `worker` if it may be part of a unit or file name, else raise RequestError."""
    if not _WORKER_ID.fullmatch(worker):
        raise RequestError(400, f"{worker!r} is no worker id: use a-z, 0-9 and '-', at most 63 characters")
    return worker


class DesiredFile:
    """`desired.json` and `highest.json` in the state directory.

    Both are written anew with each document of the queen; a mark that the disk refuses is tried again with its repeat.
    """

    def __init__(self, state_dir: Path, *, fleet: str, hive: str) -> None:
        self._path = state_dir / "desired.json"
        self._highest_path = state_dir / "highest.json"
        self._fleet = fleet
        self._hive = hive
        self._said: dict[Path, str] = {}
        self.document = self._load()
        self._highest = self._load_highest()

    @property
    def trouble(self) -> str:
        """Return why what the files say is not followed or not as it should be, "" for nothing."""
        return "; ".join(said for said in self._said.values() if said)

    def accept(self, document: Desired) -> bool:
        """Keep a newer document and say True; False for the one that is held; StaleDesiredError for any other."""
        self._check(document)
        held = self.document
        if held is not None and (held.epoch, held.revision) == (document.epoch, document.revision):
            if self._said.get(self._highest_path):
                # The mark beside it is damaged or old, and this is the document that it stands for.
                self._settle(document)
            return False
        # This order: the mark alone would make the same document look old when the queen repeats it after a crash.
        durable.write(self._path, encode(_held(document)))
        self._said.pop(self._path, None)
        self._settle(document)
        return True

    def _settle(self, document: Desired) -> None:
        self.document = document
        self._highest = Highest(fleet=document.fleet, epoch=document.epoch, revision=document.revision)
        try:
            durable.write(self._highest_path, encode(self._highest))
        except StateError as error:
            # The document is in force and carries the same mark.
            self._said[self._highest_path] = str(error)
            logs.warning("mark_not_written", detail=error)
        else:
            self._said.pop(self._highest_path, None)

    def check_order(self, epoch: int) -> None:
        """Raise StaleDesiredError if a queen of this epoch is an older one than the one whose document is followed."""
        if self._highest is not None and epoch < self._highest.epoch:
            raise self._older(f"a queen of epoch {epoch} commands", self._highest)

    def forget(self) -> None:
        """Drop the document, as if none had come; the mark stays, so that no older one is taken for new."""
        self.document = None
        with contextlib.suppress(StateError):
            durable.remove(self._path)

    def ack(self) -> DesiredAck:
        """Return what is held; epoch and revision 0 when nothing is."""
        held = self.document
        if held is None:
            return DesiredAck(fleet=self._fleet, epoch=0, revision=0)
        return DesiredAck(fleet=held.fleet, epoch=held.epoch, revision=held.revision)

    def _check(self, document: Desired) -> None:
        if document.fleet != self._fleet:
            raise StaleDesiredError(
                f"this hive belongs to fleet {self._fleet!r}, the document is of {document.fleet!r}; "
                "deploy the host with that fleet's inventory to move it"
            )
        if document.hive and document.hive != self._hive:
            raise StaleDesiredError(
                f"the document is for hive {document.hive!r}, this is {self._hive!r}: the queen has an old address; "
                "the next heartbeat of each host corrects it"
            )
        highest = self._highest
        if highest is not None and (document.epoch, document.revision) < (highest.epoch, highest.revision):
            said = f"the document is of epoch {document.epoch} revision {document.revision}"
            raise self._older(said, highest)

    def _older(self, said: str, highest: Highest) -> StaleDesiredError:
        return StaleDesiredError(
            f"{said}, this hive follows epoch {highest.epoch} revision {highest.revision}; another queen is, or was, "
            f"in charge of fleet {self._fleet!r}; if it is gone for good, remove {self._path} and "
            f"{self._highest_path} on this host and restart rbee-hive, whose workers go on meanwhile"
        )

    def _load(self) -> Desired | None:
        held, self._said[self._path] = state_files.read(self._path, Held, newest=SCHEMA, until_then=_UNTIL_THEN)
        document = msgspec.convert(held, Desired, from_attributes=True) if held is not None else None
        if document is not None and document.fleet != self._fleet:
            logs.warning("desired_of_other_fleet", file=self._path, fleet=document.fleet, wanted=self._fleet)
            self._said[self._path] = f"{self._path} is of fleet {document.fleet}, this is {self._fleet}: {_UNTIL_THEN}"
            return None
        return document

    def _load_highest(self) -> Highest | None:
        kept, said = state_files.read(self._highest_path, Highest, newest=SCHEMA, until_then=_UNTIL_THEN)
        self._said[self._highest_path] = said
        candidates = [kept] if kept is not None and kept.fleet == self._fleet else []
        if self.document is not None:
            held = self.document
            candidates.append(Highest(fleet=held.fleet, epoch=held.epoch, revision=held.revision))
        return max(candidates, key=lambda mark: (mark.epoch, mark.revision), default=None)


def _held(document: Desired) -> Held:
    return msgspec.convert(document, Held, from_attributes=True)
