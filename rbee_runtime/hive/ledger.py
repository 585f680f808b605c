"""Memory of each device: what our workers may take, what they take, what others take, what is on its way back.

Pure: each look gives a new ledger from the last one. Memory of a worker that ended counts as taken until a scan shows
that it is free, because drivers give it back late; a scan that cannot show it is believed after five seconds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rbee_runtime.devices import Scan
from rbee_runtime.protocol import DeviceReport

RELEASE_SECONDS = 5.0
"""Drivers need about a second; what is not seen to be free by then never will be, because others took it."""

RELEASED_SHARE = 0.8
"""So much of what a worker had must be missing from the device's use: neighbours may have grown a little meanwhile."""

CPU = "cpu"
GIB = 1024**3


@dataclass(frozen=True)
class Holder:
    """A worker with a process, or with one to come. `need` is the bytes that it may take on each of its devices."""

    worker: str
    devices: tuple[str, ...]
    need: int
    pid: int | None = None
    loading: bool = False
    stopping: bool = False


@dataclass(frozen=True)
class Leaving:
    """What an ended worker had on one device; `used` is the device's use when it was last seen with the worker."""

    worker: str
    device: str
    size: int
    used: int
    since: float
    pid: int | None = None


@dataclass(frozen=True)
class Look:
    """One scan of the devices and when it came, on the same clock as `Leaving.since`."""

    at: float
    scan: Scan = field(default_factory=Scan)


@dataclass(frozen=True)
class Account:
    """One device, in bytes; `limit` is how many workers may load on it at once."""

    device: str
    total: int
    used: int
    foreign: int
    limit: int = 1
    holders: tuple[Holder, ...] = ()
    measured: Mapping[str, int] = field(default_factory=dict)
    leaving: tuple[Leaving, ...] = ()

    @property
    def reserved(self) -> int:
        """Return what the workers here may take."""
        return sum(holder.need for holder in self.holders)

    @property
    def held(self) -> int:
        """Return what is taken or promised: a worker that takes more than it was estimated counts with that."""
        return sum(max(holder.need, self.measured.get(holder.worker, 0)) for holder in self.holders)

    @property
    def free(self) -> int:
        """Return what another worker can have."""
        return max(0, self.total - self.foreign - self.held - sum(each.size for each in self.leaving))


@dataclass(frozen=True)
class Ledger:
    """The accounts by device id; `assumed` are releases (worker, device) that no scan showed within the limit."""

    accounts: Mapping[str, Account] = field(default_factory=dict)
    leaving: tuple[Leaving, ...] = ()
    assumed: tuple[tuple[str, str], ...] = ()

    def memory(self, worker: str) -> dict[str, int]:
        """Return what a worker takes, by device id, as far as the devices tell."""
        found = ((device, account.measured.get(worker)) for device, account in self.accounts.items())
        return {device: size for device, size in found if size is not None}

    def free(self, devices: Sequence[str]) -> dict[str, int]:
        """Return what is free on each of these devices that is known."""
        return {device: self.accounts[device].free for device in places(devices) if device in self.accounts}

    def with_start(self, worker: str, devices: Sequence[str], need: int) -> "Ledger":
        """Return the ledger as it is once this worker has been started."""
        started = Holder(worker, places(devices), need, loading=True)
        accounts = {
            device: replace(account, holders=(*account.holders, started)) if device in started.devices else account
            for device, account in self.accounts.items()
        }
        return replace(self, accounts=accounts)


def places(devices: Sequence[str]) -> tuple[str, ...]:
    """Return the devices that a spec means: none named is the processor."""
    return tuple(devices) or (CPU,)


def advance(before: Ledger, look: Look, holders: Iterable[Holder], *, now: float, cpu_limit: int) -> Ledger:
    """Return the ledger of this moment."""
    held = tuple(holders)
    pending = (*before.leaving, *_ended(before, held, now))
    held_back = _not_released(pending, look)
    kept = tuple(each for each in held_back if now - each.since < RELEASE_SECONDS)
    assumed = tuple((each.worker, each.device) for each in held_back if now - each.since >= RELEASE_SECONDS)
    accounts = {
        device.id: _account(device, look, held, kept, 1 if device.id != CPU else cpu_limit)
        for device in look.scan.devices
    }
    return Ledger(accounts, kept, assumed)


def refusal(account: Account, worker: str, need: int) -> str:
    """Return why a worker does not fit now, with the numbers, or "" if it does; a need of 0 is not known and fits."""
    if need <= account.free:
        return ""
    leaving = sum(each.size for each in account.leaving)
    names = ", ".join(holder.worker for holder in account.holders if holder.worker != worker) or "none"
    return (
        f"{worker} needs {gib(need)} on {account.device} and {gib(account.free)} are free: "
        f"{gib(account.total)} in all, "
        f"{gib(account.held)} for other workers ({names}), {gib(account.foreign)} used by others, "
        f"{gib(leaving)} not given back yet"
    )


def wait(account: Account, worker: str) -> str:
    """Return whom a start has to wait for on this device, or "".

    Engines measure free memory while they load, so nothing else may come or go on a GPU meanwhile.
    """
    others = [holder for holder in account.holders if holder.worker != worker]
    loading = [holder.worker for holder in others if holder.loading and not holder.stopping]
    if len(loading) >= account.limit:
        return f"waits its turn: {', '.join(loading)} loads on {account.device}"
    if account.device == CPU:
        return ""
    stopping = [holder.worker for holder in others if holder.stopping]
    if stopping:
        return f"waits until {', '.join(stopping)} has ended on {account.device}"
    leaving = [each.worker for each in account.leaving]
    return f"waits until {account.device} has the memory of {', '.join(leaving)} back" if leaving else ""


def gib(size: int) -> str:
    """Return bytes for a person."""
    return f"{size / GIB:.1f} GiB"


def _account(
    device: DeviceReport, look: Look, held: tuple[Holder, ...], leaving: tuple[Leaving, ...], limit: int
) -> Account:
    here = tuple(holder for holder in held if device.id in holder.devices)
    taken = {holder.worker: look.scan.taken(holder.pid) for holder in here if holder.pid is not None}
    measured = {worker: sizes[device.id] for worker, sizes in taken.items() if device.id in sizes}
    gone = tuple(each for each in leaving if each.device == device.id)
    # To a scan that was not told of it, what an ended worker still holds is as foreign as anybody's.
    foreign = max(0, device.foreign - sum(each.size for each in gone if each.pid not in look.scan.workers))
    return Account(device.id, device.total, device.used, foreign, limit, here, measured, gone)


def _ended(before: Ledger, held: tuple[Holder, ...], now: float) -> list[Leaving]:
    """Return what workers of the last look had whose process is gone."""
    alive = {(holder.worker, holder.pid) for holder in held}
    known = {holder.worker for holder in held if holder.pid is None}
    return [
        Leaving(holder.worker, device, size, account.used, now, holder.pid)
        for device, account in before.accounts.items()
        for holder in account.holders
        if holder.pid is not None
        and (holder.worker, holder.pid) not in alive
        and holder.worker not in known
        and (size := account.measured.get(holder.worker, holder.need))
    ]


def _not_released(pending: Iterable[Leaving], look: Look) -> tuple[Leaving, ...]:
    """Return those whose memory no scan has shown to be free; what one gave back is not counted for the next one."""
    kept: list[Leaving] = []
    returned: dict[str, int] = {}
    for one in pending:
        each = replace(one, used=one.used - returned.get(one.device, 0))
        if _released(each, look):
            returned[each.device] = returned.get(each.device, 0) + each.size
        else:
            kept.append(each)
    return tuple(kept)


def _released(each: Leaving, look: Look) -> bool:
    if look.at <= each.since or each.pid in look.scan.processes.get(each.device, {}):
        return False
    device = next((device for device in look.scan.devices if device.id == each.device), None)
    return device is None or device.used <= each.used - RELEASED_SHARE * each.size
