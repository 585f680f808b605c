"""A file on its way: broken connections, wrong content, full disks, a killed process, many who ask at once."""

import asyncio
import hashlib
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_runtime.errors import DiskFullError, ModelStoreError, QuarantinedError
from rbee_runtime.models.layout import Layout
from rbee_runtime.models.progress import Progress
from rbee_runtime.models.sources import TransientError
from rbee_runtime.states import FetchState
from tests.faults.rows import row

from .faulty_server import Fault, faulty_server
from .pulling import CONTENT, DIGEST, Pulling, spec

SIZE = len(CONTENT)
BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
OTHER = bytes(reversed(CONTENT))


@pytest.fixture
def pulling(tmp_path: Path) -> Pulling:
    return Pulling(tmp_path / "models")


@pytest.mark.parametrize("sha256", [DIGEST, ""], ids=["hash known", "hash unknown"])
async def test_d1_broken_connections_cost_nothing_twice(pulling: Pulling, sha256: str) -> None:
    """Cut at 30, 60 and 90 % of the file, a download gets no byte twice and has the right content."""
    cuts = [Fault(cut=SIZE * 3 // 10), Fault(cut=SIZE * 3 // 10), Fault(cut=SIZE * 3 // 10), Fault()]
    async with faulty_server(CONTENT, *cuts) as server:
        report = await pulling.puller().pull(spec(server, sha256))
    assert server.gets == 4
    assert server.sent <= 1.05 * SIZE
    assert pulling.store.path_of(report.files[0]).read_bytes() == CONTENT
    assert pulling.names("partial") == []


async def test_d1_a_try_that_got_bytes_starts_the_pauses_anew(pulling: Pulling) -> None:
    """Twelve broken connections with progress are never given up; the pauses stay short."""
    cuts = [Fault(cut=SIZE // 13)] * 12
    async with faulty_server(CONTENT, *cuts, Fault()) as server:
        await pulling.puller().pull(spec(server))
    assert pulling.pauses == [1.0] * 12


async def test_a_server_that_stays_silent_is_given_up_after_a_while(pulling: Pulling) -> None:
    """Without any progress the tries end, each pause twice the one before, and the model is not there."""
    async with faulty_server(CONTENT, Fault(status=503, content=b"")) as server:
        with pytest.raises(TransientError, match="answers 503"):
            await pulling.puller().pull(spec(server))
    assert pulling.pauses == [1.0, 2.0, 4.0, 8.0, 16.0]
    assert pulling.visible() == []


@pytest.mark.parametrize(
    ("fault", "said", "kind"),
    [
        (Fault(content=OTHER), "has sha256", QuarantinedError),
        (Fault(content=CONTENT + b"more"), "another file than before", ModelStoreError),
        (Fault(content=CONTENT[:-5]), "another file than before", ModelStoreError),
        (Fault(etag='"v2"'), None, None),
    ],
    ids=["hash", "longer", "shorter", "etag"],
)
async def test_d3_wrong_content_is_tried_once_more_and_never_visible(
    pulling: Pulling, fault: Fault, said: str | None, kind: type[Exception] | None
) -> None:
    """What is not as announced is fetched twice at most, then refused in one sentence, and kept aside if it came."""
    async with faulty_server(CONTENT, fault) as server:
        if kind is None:
            await pulling.puller().pull(spec(server))
            return
        with pytest.raises(kind, match=said):
            await pulling.puller().pull(spec(server))
        assert server.gets == 2
    assert pulling.visible() == []
    assert len(pulling.names("quarantine")) == (kind is QuarantinedError)


async def test_d3_content_that_changes_on_the_way_is_fetched_anew(pulling: Pulling) -> None:
    """After a cut, another validator restarts the download once, and the new content is what counts."""
    async with faulty_server(CONTENT, Fault(cut=SIZE // 2), Fault(content=OTHER, etag='"v2"')) as server:
        server.faults.append(Fault(content=OTHER, etag='"v2"'))
        server.etag = '"v1"'
        report = await pulling.puller().pull(spec(server, ""))
    assert pulling.store.path_of(report.files[0]).read_bytes() == OTHER


async def test_d3_an_ignored_range_restarts_once(pulling: Pulling) -> None:
    """A server that sends all of it again is read from the start once, and given up the second time."""
    async with faulty_server(CONTENT, Fault(cut=SIZE // 2), Fault(ignore_range=True)) as server:
        await pulling.puller().pull(spec(server))
    async with faulty_server(CONTENT, *[Fault(cut=SIZE // 2, ignore_range=True)] * 9) as server:
        with pytest.raises(ModelStoreError, match="twice; the server has to be mended"):
            await pulling.puller().pull(spec(server, "", name="other"))
        assert server.gets == 4


async def test_d4_many_who_ask_get_one_download(pulling: Pulling) -> None:
    """Eight callers of one hive and four other hives on the same store cause one download of each byte."""
    one = pulling.puller()
    async with faulty_server(CONTENT, Fault(pause=0.001)) as server:
        asked = [one.pull(spec(server)) for _ in range(8)] + [pulling.puller().pull(spec(server)) for _ in range(4)]
        reports = await asyncio.gather(*asked)
    assert (server.gets, server.sent, {report.files for report in reports}) == (1, SIZE, {reports[0].files})


async def test_one_caller_less_does_not_end_a_download(pulling: Pulling) -> None:
    """Whoever is cancelled leaves the others with their model; when all are, what came is kept for the next."""
    puller = pulling.puller()
    async with faulty_server(CONTENT, Fault(pause=0.002)) as server:
        first, second = (asyncio.create_task(puller.pull(spec(server))) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        assert (await second).size == SIZE
    assert server.gets == 1


async def test_a_cancelled_download_goes_on_where_it_was(pulling: Pulling) -> None:
    """Cancelled in the middle and asked for again, the download asks for the rest only."""
    async with faulty_server(CONTENT, Fault(pause=0.005)) as server:
        task = asyncio.create_task(pulling.puller().pull(spec(server)))
        await server.reached(SIZE // 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert pulling.visible() == []
        server.faults = [Fault()]
        await pulling.puller().pull(spec(server))
    assert "range: bytes=" in server.asked[-1].lower()
    assert server.sent <= 1.5 * SIZE


async def test_d5_a_full_disk_is_told_and_what_came_is_kept(pulling: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of space mid-way: one error that says how much is missing; with space again only the rest is fetched."""
    real, room = os.write, [SIZE // 2]

    def write(handle: int, data: bytes) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(28, os.strerror(28))
        return real(handle, data)

    monkeypatch.setattr("rbee_runtime.models.partial.os.write", write)
    async with faulty_server(CONTENT) as server:
        with pytest.raises(DiskFullError, match="the model disk is full") as caught:
            await pulling.puller().pull(spec(server))
        assert (pulling.visible(), pulling.pauses, server.gets) == ([], [], 1)
        assert SIZE // 2 <= caught.value.needed < SIZE
        room[0], server.sent = 2 * SIZE, 0
        await pulling.puller().pull(spec(server))
    assert server.sent <= 0.8 * SIZE


async def test_no_room_is_seen_before_the_first_byte(pulling: Pulling, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without room for the file and what stays free nothing is asked for."""
    monkeypatch.setattr(Layout, "free", lambda _: SIZE)
    pulling.settings["spare"] = 1
    async with faulty_server(CONTENT) as server:
        with pytest.raises(DiskFullError, match="free space there"):
            await pulling.puller().pull(spec(server))
    assert server.gets == 0


CHILD = """
import asyncio, sys
from pathlib import Path
from tests.unit.models.pulling import Pulling
from rbee_runtime.protocol import ModelSpec
print("up", flush=True)
asyncio.run(Pulling(Path(sys.argv[1])).puller().pull(ModelSpec(name="m", source=sys.argv[2])))
"""


@pytest.mark.slow
async def test_d2_killed_at_any_moment_nothing_wrong_is_visible(pulling: Pulling) -> None:
    """Killed with SIGKILL at random moments, a download never shows a wrong file, and goes on with what it had."""
    chance = random.Random(7)
    async with faulty_server(CONTENT, Fault(pause=0.002)) as server:
        arguments = [sys.executable, "-c", CHILD, str(pulling.root), spec(server).source]
        for _ in range(row("D2").figure("kills")):
            child = await asyncio.to_thread(subprocess.Popen, arguments, stdout=subprocess.PIPE)
            assert child.stdout is not None
            await asyncio.to_thread(child.stdout.readline)
            await asyncio.sleep(chance.uniform(0.0, 0.25))
            child.send_signal(signal.SIGKILL)
            await asyncio.to_thread(child.communicate)
            for blob in (pulling.root / "blobs").glob("*"):
                assert blob.name == f"sha256-{hashlib.sha256(blob.read_bytes()).hexdigest()}"
            assert pulling.store.reports() == () or pulling.visible()[0] == f"sha256-{DIGEST}"
        report = await pulling.puller().pull(spec(server))
    assert report.files[0].sha256 == DIGEST


async def test_what_a_crash_may_have_lost_is_fetched_again(pulling: Pulling) -> None:
    """After a boot only what was synced counts: the rest of a partial file may be anything."""
    async with faulty_server(CONTENT, Fault(cut=SIZE // 2), Fault(status=404)) as server:
        with pytest.raises(ModelStoreError, match="404"):
            await pulling.puller().pull(spec(server))
        beside = next((pulling.root / "partial").glob("*.json"))
        text = beside.read_text()
        beside.write_text(text.replace(BOOT, "another boot"))
        part = beside.with_suffix(".part")
        with part.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(bytes(1000))
        server.faults = [Fault()]
        report = await pulling.puller().pull(spec(server))
    assert report.files[0].sha256 == DIGEST
    assert server.gets == 3


def test_rate_and_time_left_follow_what_comes() -> None:
    """At a steady 1 MB/s the rate says so and the time left counts down; held bytes do not count as speed."""
    now = [0.0]
    progress = Progress("m", lambda: now[0])
    progress.state, progress.total = FetchState.FETCHING, 30_000_000
    progress.held(10_000_000)
    for _ in range(10):
        now[0] += 1
        progress.add(1_000_000)
    report = progress.report()
    assert (report.rate, report.eta, report.done) == (1_000_000.0, 10, 20_000_000)
    now[0] += 60
    assert progress.report().rate < 1000
