"""What a person hears of a model store whose folder or content was taken away."""

import errno
import os
from pathlib import Path

import pytest

from rbee_runtime.errors import ModelStoreError

from .places import DIGEST, FILE, Place, wrong


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM])
def test_a_folder_that_is_gone_is_not_called_read_only(
    place: Place, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Where the hive may not make the folder itself, the sentence says that it is gone and what makes it again."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "mkdir", refuse)
    said = f"cannot use the models folder {place.root}: it is gone; run the deploy again, which makes it"
    with pytest.raises(ModelStoreError, match=said):
        place.store.layout.prepare()


def test_a_folder_that_is_read_only_says_so(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is there and takes nothing is read-only for the hive, with both of the ways out."""
    place.root.mkdir()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(
        ModelStoreError, match="mounted read-only; mount it writable, or restart rbee-hive if the folder is new"
    ):
        place.store.layout.prepare()


async def test_lost_files_of_a_deployed_model_are_named(place: Place) -> None:
    """A model that a deploy put there names what is missing and the deploy, never a path of the operator's machine."""
    await place.take_in(place.spec())
    place.store.path_of(FILE).unlink()
    place.source.unlink()
    with pytest.raises(ModelStoreError) as raised:
        await place.take_in(place.spec())
    said = f"model org/m:q4: m.gguf (sha256-{DIGEST[:12]}…) is gone from the model store {place.root} of this host"
    assert str(raised.value).startswith(said)
    assert "run the deploy again" in str(raised.value)
    assert str(place.source) not in str(raised.value)


async def test_many_lost_files_are_counted(place: Place) -> None:
    """A model in many parts names the first three and how many more."""
    parts = tuple(part for n in range(5) for part in wrong(name=f"p{n}.gguf", sha256=f"{n}" * 64))
    place.source.unlink()
    with pytest.raises(ModelStoreError, match=r"p2.gguf \(sha256-222222222222…\) and 2 more are gone from"):
        await place.take_in(place.spec(files=parts))


async def test_a_file_of_this_host_that_nobody_deployed_keeps_its_path(place: Place) -> None:
    """Without declared files the path is one of this host, and the sentence names it."""
    place.source.unlink()
    with pytest.raises(ModelStoreError, match=f"{place.source} is not a file here"):
        await place.take_in(place.spec(files=()))
