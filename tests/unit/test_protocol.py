"""Messages as they are read."""

from typing import Any

import msgspec
import pytest

from rbee_runtime.protocol import Heartbeat, ModelFile, WorkerSpec, decode, encode
from tests.unit.damage import UNREADABLE


@pytest.mark.parametrize("data", UNREADABLE)
def test_whatever_is_wrong_with_a_message_is_one_error(data: bytes) -> None:
    """Callers that know of `msgspec.DecodeError` know of everything."""
    with pytest.raises(msgspec.DecodeError):
        decode(data, ModelFile)


def test_a_sound_message_is_read() -> None:
    """Whatever else it says."""
    found = decode(b'{"name": "n", "sha256": "s", "size": 1, "mood": "good"}', ModelFile)
    assert found == ModelFile(name="n", sha256="s", size=1)


BARE = WorkerSpec(id="w-1", model="m", engine="fake")
FULL = WorkerSpec(
    id="w-1",
    model="ü",
    engine="llama-cpp",
    context=8192,
    slots=4,
    devices=("GPU-1",),
    options={"z": 1.5, "a": True, "n": -3, "s": "é"},
)


@pytest.mark.parametrize(("spec", "digest"), [(BARE, "bf162ccd24fa64bb"), (FULL, "8b0319f2a9cf7d16")])
def test_a_spec_without_a_build_has_the_digest_of_releases_before_builds(spec: WorkerSpec, digest: str) -> None:
    """These digests were computed by such a release; any other one would make every running worker drift at once."""
    assert spec.digest() == digest
    assert msgspec.structs.replace(spec, build="b").digest() != digest


class OlderSpec(msgspec.Struct, frozen=True, kw_only=True):
    """A worker spec as the release before builds reads it."""

    id: str
    model: str
    engine: str
    context: int = 4096
    slots: int = 1
    devices: tuple[str, ...] = ()
    options: dict[str, Any] = {}


def test_neighbours_of_the_release_before_builds_understand_each_other() -> None:
    """A build is ignored by who does not know of it, and nothing is one that nobody told."""
    assert decode(encode(msgspec.structs.replace(FULL, build="b")), OlderSpec) == decode(encode(FULL), OlderSpec)
    assert decode(msgspec.json.encode(decode(encode(FULL), OlderSpec)), WorkerSpec) == FULL
    told = (
        b'{"hive": "h", "incarnation": "1", "url": "", "epoch": 0, "revision": 0, "version": "0", "engines": ["fake"]}'
    )
    assert decode(told, Heartbeat).builds == {}


@pytest.mark.parametrize(
    ("wanted", "runs", "started_with", "agrees"),
    [
        ("", "", "", True),
        ("b1", "b1", "b1", True),
        ("b2", "b1", "b1", False),
        ("b1", "", "", False),
        ("", "b1", "b1", True),
        ("", "b1", "b2", False),
        ("b1", "", "b1", True),
        ("b2", "", "b1", False),
    ],
    ids=[
        "no builds",
        "the wanted build",
        "another build",
        "started before builds",
        "an older queen",
        "of another hive's time",
        "an older worker",
        "an older worker of another build",
    ],
)
def test_a_worker_agrees_with_its_spec(wanted: str, runs: str, started_with: str, agrees: bool) -> None:
    """Only a build that is asked for, and that is not the one which was started, makes a difference."""
    asked, running = (msgspec.structs.replace(BARE, build=build) for build in (wanted, runs))
    assert asked.agrees(running.digest(), started_with) is agrees
    other = msgspec.structs.replace(running, context=1)
    assert not asked.agrees(other.digest(), started_with)
