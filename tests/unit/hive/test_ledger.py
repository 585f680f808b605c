"""Memory of devices: who has it, who may have it, when it is free again."""

import pytest

from rbee_runtime.devices import Scan
from rbee_runtime.hive.ledger import Account, Holder, Leaving, Ledger, Look, advance, refusal, wait
from rbee_runtime.protocol import DeviceReport

GPU = "GPU-1"


def look(at: float, *, used: int, foreign: int = 0, **pids: int) -> Look:
    """Return a scan of one card of 100 bytes; `p7=20` is a process 7 with 20 bytes."""
    device = DeviceReport(id=GPU, kind="nvidia", name="card", total=100, used=used, foreign=foreign)
    taken = {int(name[1:]): size for name, size in pids.items()}
    return Look(at, Scan((device,), processes={GPU: taken}, workers={pid: frozenset({pid}) for pid in taken}))


def holder(worker: str = "w", need: int = 30, pid: int | None = 7, **flags: bool) -> Holder:
    return Holder(worker, (GPU,), need, pid, **flags)


def after(*steps: tuple[Look, list[Holder], float]) -> Ledger:
    ledger = Ledger()
    for seen, holders, now in steps:
        ledger = advance(ledger, seen, holders, now=now, cpu_limit=2)
    return ledger


@pytest.mark.parametrize(
    ("need", "measured", "free"),
    [(30, 0, 60), (30, 20, 60), (30, 45, 45)],
    ids=["not measured", "below its estimate", "above its estimate"],
)
def test_a_worker_counts_with_the_larger_of_estimate_and_measurement(need: int, measured: int, free: int) -> None:
    """What is free is the total less foreign use and the larger figure of each worker."""
    pids = {"p7": measured} if measured else {}
    account = after((look(1, used=10 + measured, foreign=10, **pids), [holder(need=need)], 1)).accounts[GPU]
    assert (account.free, account.reserved, sum(account.measured.values())) == (free, need, measured)


RUNNING = (look(1, used=50, foreign=10, p7=40), [holder()], 1.0)


@pytest.mark.parametrize(
    ("seen", "now", "free", "assumed"),
    [
        (RUNNING[0], 2.0, 50, ()),
        (look(3, used=50, foreign=50), 3.0, 50, ()),
        (look(3, used=50, foreign=10, p7=40), 3.0, 50, ()),
        (look(3, used=10, foreign=10), 3.0, 90, ()),
        (look(3, used=15, foreign=15), 3.0, 85, ()),
        (look(3, used=50, foreign=50), 7.5, 50, (("w", GPU),)),
    ],
    ids=["no new scan", "driver is late", "process lingers", "given back", "mostly given back", "never given back"],
)
def test_memory_is_free_when_a_scan_shows_it_or_after_five_seconds(
    seen: Look, now: float, free: int, assumed: tuple[tuple[str, str], ...]
) -> None:
    """After the end of a worker with 40 of 100 bytes nobody gets them until the device has them back."""
    ledger = after(RUNNING, (RUNNING[0], [], 2.0), (seen, [], now))
    assert (ledger.accounts[GPU].free, ledger.assumed) == (free, assumed)


def test_a_restarted_worker_gives_back_what_its_last_process_had() -> None:
    """Another process of the same worker does not inherit the memory of the one before."""
    ledger = after(RUNNING, (RUNNING[0], [holder(pid=8)], 2.0))
    assert [each.size for each in ledger.accounts[GPU].leaving] == [40]


def test_an_ended_worker_that_no_driver_measured_leaves_its_estimate() -> None:
    """Without figures per process the estimate stays taken until the card shows it free or the time is over."""
    ledger = after((look(1, used=30, foreign=30), [holder()], 1), (look(2, used=30, foreign=30), [], 2))
    assert ledger.accounts[GPU].free == 70


BOTH = (look(1, used=80, p7=40, p8=40), [holder("a", 40), holder("b", 40, pid=8)], 1.0)


@pytest.mark.parametrize(
    ("seen", "left"),
    [
        (look(3, used=80, foreign=80), ["a", "b"]),
        (look(3, used=40, foreign=40), ["b"]),
        (look(3, used=40, p7=40), ["a"]),
        (look(3, used=0), []),
    ],
    ids=["nothing back", "half back", "half back, one lingers", "all back"],
)
def test_memory_that_came_back_is_counted_for_one_worker_only(seen: Look, left: list[str]) -> None:
    """Of two workers that ended at once on a card, the second waits until its share is back too."""
    ledger = after(BOTH, (BOTH[0], [], 2.0), (seen, [], 3.0), (seen, [], 3.5))
    assert [each.worker for each in ledger.leaving] == left


def account(device: str = GPU, **fields: object) -> Account:
    return Account(device, total=100, used=0, foreign=0, **fields)  # type: ignore[arg-type]


LEAVING = Leaving("b", GPU, 10, 20, 1.0)


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (account(), ""),
        (account(holders=(holder("b"),)), ""),
        (account(holders=(holder("b", loading=True),)), "b loads on GPU-1"),
        (account(holders=(holder("w", loading=True),)), ""),
        (account(holders=(holder("b", stopping=True),)), "until b has ended"),
        (account(leaving=(LEAVING,)), "the memory of b back"),
        (account("cpu", limit=2, holders=(holder("b", loading=True),)), ""),
        (account("cpu", limit=2, holders=(holder("b", loading=True), holder("c", loading=True))), "b, c loads"),
        (account("cpu", limit=2, holders=(holder("b", stopping=True),)), ""),
    ],
)
def test_one_loads_at_a_time_on_a_gpu_and_nobody_leaves_meanwhile(held: Account, said: str) -> None:
    """A start waits for a loading or ending neighbour on its GPU; on the processor only for a bounded number."""
    found = wait(held, "w")
    assert said in found
    assert bool(said) is bool(found)


def test_a_refusal_has_its_numbers() -> None:
    """Needed, free, total, others by name, foreign and not yet given back are all told."""
    held = account(holders=(holder("b", need=30),), leaving=(LEAVING,))
    big = Account(GPU, 24 * 1024**3, 0, 2 * 1024**3, holders=held.holders, leaving=held.leaving)
    said = refusal(big, "w", 30 * 1024**3)
    for part in ("w needs 30.0 GiB on GPU-1", "22.0 GiB are free", "24.0 GiB in all", "(b)", "2.0 GiB used by others"):
        assert part in said
    assert refusal(big, "w", 22 * 1024**3 - 40) == ""
