"""R1, R2, R3, R7, R8, C1, C2 and C4 on real hosts: whatever happens to the hive, its workers are systemd's."""

import json
import random
import re
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.e2e.fleets import Fleet, small_fleet, wait_for
from tests.e2e.streams import Stream
from tests.e2e.test_restarts import settled_pids, worker_pids
from tests.faults.rows import FULL, row
from tests.lab import LabHost

pytestmark = pytest.mark.lab

STREAMS = row("R1").figure("streams")
STATE = "/var/lib/rbee/hive"
DROP_IN = "/run/systemd/system/rbee-hive.service.d/patience.conf"
KILL = "systemctl kill --kill-whom=main -s KILL rbee-hive"


@pytest.fixture(scope="module")
def fleet() -> Iterator[Fleet]:
    """Give a queen and one GPU host with a scripted model on one worker."""
    with small_fleet("faults") as made:
        source = f"fake:tokens_per_s=20,slots={STREAMS},tokens=120"
        made.models["slow"] = {"name": "slow", "source": source, "slots": STREAMS}
        made.deploy()
        made.wait_ready("slow")
        yield made


def gpu(fleet: Fleet) -> LabHost:
    return fleet.lab.hosts["gpu1"]


def worker(fleet: Fleet) -> dict[str, Any]:
    """Return what the hive tells of its one worker."""
    (known,) = fleet.admin("workers")
    found: dict[str, Any] = fleet.admin(f"workers/{known['id']}")
    return found


def another_hive_is_up(fleet: Fleet, old: str) -> bool:
    """Say whether a hive is ready that has another main process than this one."""
    # In one question: systemd calls a killed one active until it has heard of its end, and has no process then.
    said = gpu(fleet).run("systemctl show rbee-hive -p ActiveState -p MainPID").stdout
    known = dict(line.split("=", 1) for line in said.splitlines())
    return known["ActiveState"] == "active" and known["MainPID"] not in {"0", old}


def test_r1_a_restart_cuts_no_stream(fleet: Fleet) -> None:
    """Streams end byte for byte as an undisturbed one, the worker keeps its process, the hive is ready in time."""
    undisturbed = Stream(fleet).begin().end().text
    before = settled_pids(fleet, gpu(fleet))
    streams = [Stream(fleet).begin() for _ in range(STREAMS)]
    begun = time.monotonic()
    gpu(fleet).run("systemctl restart rbee-hive")
    seconds = time.monotonic() - begun
    texts = {stream.end().text for stream in streams}
    assert [stream.error for stream in streams] == [""] * STREAMS
    assert texts == {undisturbed}
    assert worker_pids(gpu(fleet)) == before
    assert seconds <= row("R1").figure("ready_seconds")


def test_r2_kills_make_no_second_copy(fleet: Fleet) -> None:
    """After each of many kills at random moments the same processes run, and every file of the state can be read."""
    before = settled_pids(fleet, gpu(fleet))
    restarts = worker(fleet)["report"]["restarts"]
    moments = random.Random(2)
    for _ in range(row("R2").figure("kills")):
        old = main_pid(fleet)
        gpu(fleet).run(KILL)
        wait_for("another hive", lambda old=old: another_hive_is_up(fleet, old))  # type: ignore[misc]
        time.sleep(moments.random())
        assert worker_pids(gpu(fleet)) == before
        files = gpu(fleet).run(f"cat {STATE}/desired.json {STATE}/records/*.json {STATE}/workers/*.json").stdout
        assert json.loads(f"[{files.replace('}{', '},{')}]")
    fleet.wait_ready("slow")
    assert worker(fleet)["report"]["restarts"] == restarts


def test_r3_an_end_in_absence_is_told(fleet: Fleet) -> None:
    """The signal that ended the worker and its last lines are there once the hive is back, and so is the worker."""
    unit = next(iter(settled_pids(fleet, gpu(fleet))))
    restarts = worker(fleet)["report"]["restarts"]
    gpu(fleet).run("systemctl stop rbee-hive")
    gpu(fleet).run(f"systemctl kill -s KILL {unit}")
    time.sleep(row("R3").figure("away_seconds"))
    gpu(fleet).run("systemctl start rbee-hive")
    told = wait_for("the end", lambda: report if (report := ended(fleet)) else None)
    assert (told["last_exit"], told["exit_signal"]) == ("killed", 9)
    fleet.wait_ready("slow")
    assert worker(fleet)["report"]["restarts"] == restarts + 1
    lines = log(fleet, told["id"]).splitlines()
    assert 0 < len(lines) <= row("R3").figure("log_lines")
    assert gpu(fleet).run(f"journalctl -o cat -q --no-pager -n 100 -u {unit}").stdout.splitlines()[:1] == lines[:1]


def ended(fleet: Fleet) -> dict[str, Any]:
    """Return the worker's report once it tells of an end."""
    try:
        report: dict[str, Any] = worker(fleet)["report"]
    except (AssertionError, KeyError, httpx.HTTPError):
        return {}
    return report if report["last_exit"] else {}


def log(fleet: Fleet, name: str) -> str:
    """Return the last lines of a worker as the queen gives them out."""
    answer = httpx.get(
        f"{fleet.url}/api/v1/workers/{name}/logs",
        params={"lines": row("R3").figure("log_lines")},
        headers={"authorization": f"Bearer {fleet.api_key}"},
        verify=fleet.trust,
        timeout=30,
        trust_env=False,
    )
    assert answer.status_code == 200, answer.text
    return answer.text


def test_r7_a_reboot_brings_the_workers_back(fleet: Fleet) -> None:
    """The wanted worker is up again in time without anybody's help, and its record is of the new boot."""
    gpu(fleet).reboot()
    fleet.wait_ready("slow", seconds=row("R7").figure("back_seconds"))
    boot = gpu(fleet).run("cat /proc/sys/kernel/random/boot_id").stdout.strip()
    record = json.loads(gpu(fleet).run(f"cat {STATE}/records/*.json").stdout)
    assert (record["boot"], worker(fleet)["report"]["state"]) == (boot, "ready")


def test_r8_workers_are_outside_the_hives_control_group(fleet: Fleet) -> None:
    """The kernel's own word: no process of a worker is below rbee-hive.service."""
    pids = list(settled_pids(fleet, gpu(fleet)).values())
    groups = [gpu(fleet).run(f"cat /proc/{pid}/cgroup").stdout for pid in pids]
    assert groups
    assert all("rbee-hive.service" not in group and "rbee-worker@" in group for group in groups)


@dataclass(frozen=True)
class Crashes:
    """What was seen of workers that end at once: by worker when each try began and ended, and the hive's own cost."""

    tries: dict[str, list[tuple[float, str]]]
    reports: list[dict[str, Any]]
    cpu_share: float
    lines_per_second: float

    def starts(self) -> list[int]:
        """Return how often each worker was started."""
        return [sum(what == "start" for _, what in seen) for seen in self.tries.values()]

    def pauses(self) -> list[list[float]]:
        """Return for each worker the seconds from every end to the start after it."""
        return [
            [after - before for (before, was), (after, _) in pairwise(seen) if was == "end"]
            for seen in self.tries.values()
        ]


def watch_crashes(fleet: Fleet, *, count: int, seconds: float) -> Crashes:
    """Declare so many models whose workers crash at their start, watch, and take them away again."""
    kept = dict(fleet.models)
    for number in range(count):
        fleet.models[f"crash{number}"] = {"name": f"crash{number}", "source": "fake:fail=crash_at_start"}
    begun, used = host_time(fleet), cpu_seconds(fleet)
    fleet.deploy()
    time.sleep(seconds)
    cpu, ended = cpu_seconds(fleet) - used, host_time(fleet)
    reports = told_between_tries(fleet, count)
    lines = journal(fleet, "rbee-hive", begun)
    seen = tries(journal(fleet, "rbee-worker@crash*", begun))
    fleet.models = kept
    fleet.deploy()
    wait_for("the one worker", lambda: len(fleet.admin("workers")) == 1)
    # The queen forgets them first, their hive once systemd has let go of their units.
    wait_for("the one unit", lambda: len(worker_pids(gpu(fleet))) == 1)
    return Crashes(seen, reports, cpu / (ended - begun), len(lines) / (ended - begun))


def told_between_tries(fleet: Fleet, count: int) -> list[dict[str, Any]]:
    """Return what the queen tells of each crashing worker at a moment when it waits for its next try."""
    waiting: dict[str, dict[str, Any]] = {}

    def look() -> bool:
        reports = [each for each in fleet.admin("workers") if each["model"].startswith("crash")]
        waiting.update({each["id"]: each for each in reports if each["state"] in ("backoff", "crash_loop")})
        return len(waiting) == count

    wait_for("a report of every crashing worker between two tries", look)
    return list(waiting.values())


def test_c1_a_real_worker_is_tried_on_the_schedule(fleet: Fleet) -> None:
    """It begins anew 1, 2, 4 … s after each end, and the queen tells why it ended and when it is tried next."""
    figures = row("C1")
    seen = watch_crashes(fleet, count=1, seconds=figures.figure("seconds"))
    (pauses,) = seen.pauses()
    jitter, late = figures.figure("jitter"), figures.figure("late_seconds")
    assert len(pauses) >= figures.figure("least_tries") - 1
    for doubled, pause in enumerate(pauses):
        assert 2**doubled * (1 - jitter) <= pause <= 2**doubled * (1 + jitter) + late
    (report,) = seen.reports
    assert "crashed: exit status 1" in report["detail"]
    assert "next try in" in report["detail"]


def test_c2_real_crash_loops_cost_little(fleet: Fleet) -> None:
    """Many of them take little of the hive's time and journal; none is tried sooner or oftener than the schedule says.

    They are tried later: so many may load at a time, and the others wait their turn.
    """
    figures = row("C2")
    seen = watch_crashes(fleet, count=figures.figure("real"), seconds=figures.figure("seconds"))
    assert len(seen.tries) == len(seen.reports) == figures.figure("real")
    assert seen.cpu_share < figures.figure("cpu_share")
    assert seen.lines_per_second <= figures.figure("lines_per_second_and_worker") * figures.figure("real")
    least = 1 - row("C1").figure("jitter")
    early = [pauses for pauses in seen.pauses() if any(wait < 2**n * least for n, wait in enumerate(pauses))]
    assert early == []
    assert max(seen.starts()) <= row("C1").figure("most_in_600_s")


SYSTEMD_SAYS = re.compile(
    r"Starting rbee-worker@(?P<start>\S+)\.service|rbee-worker@(?P<end>\S+)\.service: Main process"
)


def tries(lines: list[tuple[float, str]]) -> dict[str, list[tuple[float, str]]]:
    """Return by crashing worker when systemd started it and saw it end (the hive's own lines come later)."""
    found: dict[str, list[tuple[float, str]]] = defaultdict(list)
    for at, text in lines:
        if (said := SYSTEMD_SAYS.search(text)) is not None and said.lastgroup is not None:
            found[said[said.lastgroup]].append((at, said.lastgroup))
    return dict(found)


def journal(fleet: Fleet, unit: str, since: float) -> list[tuple[float, str]]:
    """Return what was written of a unit since then, with seconds."""
    text = gpu(fleet).run(f"journalctl -q -u '{unit}' -o short-unix --since @{since:.0f}").stdout
    return [(float(line.partition(" ")[0]), line) for line in text.splitlines()]


def host_time(fleet: Fleet) -> float:
    return float(gpu(fleet).run("date +%s.%N").stdout)


def cpu_seconds(fleet: Fleet) -> float:
    """Return the processor time of the hive and of the programs that it called."""
    fields = gpu(fleet).run(f"cat /proc/{main_pid(fleet)}/stat; getconf CLK_TCK").stdout.rpartition(")")[2].split()
    return sum(int(field) for field in fields[11:15]) / int(fields[-1])


@pytest.fixture
def patience(fleet: Fleet) -> Iterator[None]:
    """Let systemd wait for the hive's pings as long as its unit says, in the short run less."""
    if not FULL:
        gpu(fleet).put(f"[Service]\nWatchdogSec={row('C4').figure('watchdog')}\n", DROP_IN)
        gpu(fleet).run("systemctl daemon-reload && systemctl restart rbee-hive")
    yield
    gpu(fleet).run(f"rm -f {DROP_IN} && systemctl daemon-reload && systemctl restart rbee-hive")


def test_c4_a_stalled_hive_is_restarted(fleet: Fleet, patience: None) -> None:
    """A hive that stands still is replaced by systemd within the promise, and its worker keeps its process."""
    before = settled_pids(fleet, gpu(fleet))
    old = gpu(fleet).run("systemctl show rbee-hive -p MainPID --value").stdout.strip()
    begun = time.monotonic()
    gpu(fleet).run("systemctl kill --kill-whom=main -s STOP rbee-hive")
    wait_for("another hive", lambda: another_hive_is_up(fleet, old), seconds=90)
    assert time.monotonic() - begun <= row("C4").figure("restarted_seconds")
    assert worker_pids(gpu(fleet)) == before


def main_pid(fleet: Fleet) -> str:
    return gpu(fleet).run("systemctl show rbee-hive -p MainPID --value").stdout.strip()
