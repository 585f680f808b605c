"""Models on their way: states by the table, reports, retries by the schedule, what is not wanted any more."""

import asyncio
from pathlib import Path
from typing import cast

import pytest

from rbee_runtime.errors import DiskFullError, ModelFormatError, ModelStoreError, QuarantinedError, RbeeError
from rbee_runtime.hive.fetching import Fetching
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.pull import Puller
from rbee_runtime.models.sources import TransientError
from rbee_runtime.models.store import ModelStore
from rbee_runtime.protocol import ModelSpec
from rbee_runtime.states import FetchState
from tests.unit.hive.fetch_case import CONTENT, FAKE, SPEC, Case, content


async def test_a_model_is_fetched_and_then_ready(case: Case) -> None:
    """It is fetching with bytes counted, then ready with the path of its content, and no fetch is reported any more."""
    await case.look()
    assert case.fetching.models["m"].ready is False
    case.source.go_on.set()
    await case.settle()
    state = case.fetching.models["m"]
    assert (state.ready, content(state.path), case.fetching.fetches) == (True, CONTENT, ())
    assert case.fetching.reports[0].source == SPEC.source


async def test_a_fake_model_is_there_at_once(case: Case) -> None:
    """A model without files needs no fetch."""
    await case.look(FAKE)
    assert (case.fetching.models["f"].ready, case.fetching.fetches) == (True, ())


async def test_files_of_this_host_hold_up_no_download(case: Case) -> None:
    """Those of a mounted disk that hangs keep each other waiting, while a model from elsewhere is fetched."""
    mounted = [ModelSpec(name=name, source=f"file:/mnt/{name}.gguf") for name in ("a", "b", "c")]
    await case.look(*mounted, SPEC)
    async with asyncio.timeout(10):
        while sum(report.state is FetchState.FETCHING for report in case.fetching.fetches) < 3:  # noqa: ASYNC110 - no event
            await asyncio.sleep(0.01)
    states = {report.name: report.state for report in case.fetching.fetches}
    assert states == {"a": "fetching", "b": "fetching", "c": "waiting", "m": "fetching"}


async def test_progress_is_reported_on_the_way(case: Case) -> None:
    """While it comes, bytes, size and a sentence with the share are there."""
    await case.look()
    while case.state is not FetchState.FETCHING or not case.fetching.fetches[0].total:  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(0.01)
    await case.look()
    assert case.fetching.fetches[0].total == len(CONTENT)
    assert "is being fetched and verified: " in case.fetching.models["m"].said


@pytest.mark.parametrize(
    ("error", "state", "first", "second"),
    [
        (ModelStoreError("no"), FetchState.FAILED, 30, 60),
        (TransientError("busy"), FetchState.FAILED, 30, 60),
        (DiskFullError("full", needed=2**62), FetchState.DISK_FULL, 600, 600),
        (ValueError("surprise"), FetchState.FAILED, 30, 60),
    ],
    ids=["refused", "busy", "full", "surprise"],
)
async def test_failures_are_tried_again_by_the_schedule(
    case: Case, error: Exception, state: FetchState, first: int, second: int
) -> None:
    """Nothing happens before its time; each failure doubles the pause up to its limit."""
    case.source.error = error
    await case.look()
    for number, pause in enumerate((first, second), start=1):
        await case.settle()
        assert (case.state, case.source.opened) == (state, number)
        case.now += pause - 1
        assert case.fetching.fetches[0].next_try == 1
        await case.look()
        await asyncio.sleep(0)
        assert case.source.opened == number
        case.now += 1
        await case.look()


async def test_d5_a_full_disk_goes_on_once_there_is_room(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not tried again before, and at the next look after space was freed."""
    case.source.error = DiskFullError("full", needed=500)
    monkeypatch.setattr(Layout, "free", lambda _: 499)
    await case.look()
    await case.settle()
    await case.look()
    assert (case.state, case.source.opened) == (FetchState.DISK_FULL, 1)
    monkeypatch.setattr(Layout, "free", lambda _: 10**9)
    case.source.error = None
    case.source.go_on.set()
    await case.look()
    await case.settle()
    assert case.fetching.models["m"].ready


async def test_quarantine_waits_long_and_a_person_can_ask(case: Case) -> None:
    """Content that was wrong twice is not fetched each minute, but at once when somebody asks for it."""
    case.source.sha256 = "0" * 64
    case.source.go_on.set()
    await case.look()
    await case.settle()
    states = [case.state]
    assert "it is kept aside as" in case.fetching.models["m"].said
    case.now += 3599
    await case.look()
    states.append(case.state)
    case.fetching.retry("m")
    await case.look()
    states.append(case.state)
    assert states == [FetchState.QUARANTINED, FetchState.QUARANTINED, FetchState.WAITING]


async def test_what_is_not_wanted_any_more_is_stopped(case: Case) -> None:
    """Its fetch ends, its report goes, and what came stays for another time."""
    await case.look()
    while not list((case.store.layout.root / "partial").glob("*.part")):  # noqa: ASYNC110 - no event to wait for
        await asyncio.sleep(0.01)
    await case.look(FAKE)
    assert case.fetching.fetches == ()
    assert len(case.fetching.models) == 1
    assert list((case.store.layout.root / "partial").glob("*.part")) != []


async def test_the_end_stops_what_reads_whole_files(case: Case) -> None:
    """Closing tells every thread of the store that hashes."""
    await case.fetching.close()
    assert case.store.layout.threads.halted.is_set()


async def test_who_else_has_a_model_does_not_interrupt_its_fetch(case: Case) -> None:
    """Another list of holders, or a pin, leaves the download running; another source does not."""
    await case.look()
    task = case.fetching._fetches["m"].task
    changed = ModelSpec(name="m", source=SPEC.source, holders=("https://h2.example:8600",), pin=True)
    await case.look(changed)
    assert case.fetching._fetches["m"].task is task
    await case.look(ModelSpec(name="m", source="https://models.example/other.gguf"))
    assert case.fetching._fetches["m"].task is not task


@pytest.mark.parametrize(
    ("error", "state"),
    [(ModelFormatError("no model"), FetchState.QUARANTINED), (DiskFullError("full"), FetchState.DISK_FULL)],
    ids=["no model", "full"],
)
async def test_what_fails_after_the_download_has_its_state(
    case: Case, monkeypatch: pytest.MonkeyPatch, error: Exception, state: FetchState
) -> None:
    """Content that is no model is not fetched each minute; a disk that fills at the very end stops nothing else."""

    def refused(*_: object) -> None:
        raise error

    monkeypatch.setattr(ModelStore, "commit", refused)
    case.source.go_on.set()
    await case.look()
    await case.settle()
    case.now += 599
    await case.look()
    assert (case.state, case.source.opened) == (state, 1)


async def test_a_passing_trouble_of_a_listing_stays_one(case: Case) -> None:
    """The model's name is added to the sentence, and it is still worth another try."""
    case.source.error = TransientError("busy")
    with pytest.raises(TransientError, match="model m: busy"):
        await case.fetching._puller.pull(SPEC)


class Failing:
    """Fails while it is in a state."""

    def __init__(self, state: FetchState, error: RbeeError) -> None:
        self._state = state
        self._error = error

    async def pull(self, _: ModelSpec, *, keep: object, progress: Progress) -> None:
        progress.state = self._state
        progress.add(5)
        raise self._error


@pytest.mark.parametrize("state", [FetchState.WAITING, FetchState.FETCHING, FetchState.VERIFYING])
@pytest.mark.parametrize("kind", [TransientError, DiskFullError, QuarantinedError, ModelFormatError])
async def test_any_failure_in_any_state_is_tried_again(
    tmp_path: Path, state: FetchState, kind: type[RbeeError]
) -> None:
    """Whatever fails whenever leaves a state from which the model is fetched again, and never breaks a look."""
    now, changed = [1000.0], asyncio.Event()
    puller = cast("Puller", Failing(state, kind("no")))
    fetching = Fetching(ModelStore(tmp_path), clock=lambda: now[0], changed=changed.set, puller=puller)
    for _ in range(2):
        await fetching.look((SPEC,))
        await asyncio.wait_for(changed.wait(), 10)
        assert [report.detail for report in fetching.fetches] == ["no"]
        changed.clear()
        now[0] += 100_000


async def test_a_damaged_manifest_is_said_with_what_becomes_of_its_model(case: Case) -> None:
    """While its source is away the reason is the manifest too, and once it answers the model comes again."""
    case.store.layout.prepare()
    manifest = case.store.layout.manifest("m")
    manifest.write_bytes(b"{")
    case.source.error = ModelStoreError("not on this host")
    await case.look()
    await case.settle()
    for said in (case.fetching.fetches[0].detail, case.fetching.models["m"].said):
        assert said.startswith(f"the manifest {manifest} is damaged (")
        assert said.endswith("; model m: not on this host")
    case.source.error = None
    case.source.go_on.set()
    case.now += 60
    await case.look()
    await case.settle()
    assert (case.fetching.models["m"].ready, case.fetching.fetches) == (True, ())
