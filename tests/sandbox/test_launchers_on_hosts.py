"""All four launchers keep the one contract on a real host, with real workers; containers are seen from outside too."""

import errno
import io
import json
import ssl
import tarfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from rbee_runtime import worker_limits
from tests.lab import Lab, LabHost
from tests.sandbox import limits
from tests.sandbox.furnishing import RELEASE, furnish, install_release
from tests.sandbox.hive_box import HiveBox, make_box, wait_for

pytestmark = pytest.mark.lab

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = f"{RELEASE}/bin/python"
CARRIED = (
    "tests/__init__.py",
    "tests/ports.py",
    "tests/sandbox/__init__.py",
    "tests/sandbox/contract_on_host.py",
    "tests/sandbox/worker_image.py",
    "tests/unit/__init__.py",
    "tests/unit/hive/__init__.py",
    "tests/unit/hive/launcher_contract.py",
    "tests/unit/hive/waiting.py",
)
RUNNER = ("pytest", "_pytest", "py.py", "pluggy", "iniconfig", "packaging", "pygments", "pytest_asyncio")
"""Pure Python, so this machine's copies serve the host's interpreter too."""

USERS = {"systemd": "root", "process": "rbee-hive", "podman": "rbee-hive", "docker": "rbee-hive"}
ENGINES = ("podman", "docker")
UNIT = "rbee-hive-contract.service"
WORKER = "w1"
IMAGE = "rbee-worker:lab"
OUTSIDE = "198.51.100.1"
"""An address of the internet that is set aside for documentation."""

DRAIN_SECONDS = 60
"""An idle worker ends at once; the engines would wait for more than three minutes before they use force."""


def carry(host: LabHost) -> None:
    """Put the contract and its runner on the host."""
    packages = Path(pytest.__file__).parent.parent
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name in CARRIED:
            tar.add(ROOT / name, arcname=name)
        for name in (*RUNNER, *(path.name for path in packages.glob("pytest_asyncio-*.dist-info"))):
            tar.add(packages / name, arcname=name, filter=lambda entry: None if "__pycache__" in entry.name else entry)
    host.run("mkdir -p /srv/carried && tar --no-same-owner -C /srv/carried -xf -", input=packed.getvalue())


def admit_hive(host: LabHost) -> None:
    """Let the hive's user speak to both engines, as docs/decisions/0008-engine-socket.md says."""
    host.put("[Socket]\nSocketGroup=rbee-hive\nSocketMode=0660\n", "/etc/systemd/system/podman.socket.d/rbee.conf")
    host.put("d /run/podman 0755 root root\n", "/etc/tmpfiles.d/00-rbee-podman.conf")
    host.run("systemctl daemon-reload && systemctl restart podman.socket && chmod 755 /run/podman")
    host.run("usermod --append --groups docker rbee-hive")
    host.put('{"live-restore": true}', "/etc/docker/daemon.json")


def furnished(lab: Lab, engine: str) -> LabHost:
    """Return a host with a release and an image of a worker."""
    host = lab.add_host(engine, image="containers")
    furnish(host)
    install_release(host)
    carry(host)
    admit_hive(host)
    host.run(f"{PYTHON} /srv/carried/tests/sandbox/worker_image.py {IMAGE} {engine}", timeout=120)
    host.run("install -d -o rbee-hive -g rbee-hive -m 0700 /var/lib/rbee/alone && systemctl daemon-reload")
    return host


@pytest.fixture(scope="module")
def hives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, HiveBox]]:
    """Return a hive on a host of its own per engine: Docker lets nothing through to the containers of others."""
    with Lab.create("launchers") as lab:
        yield {
            engine: make_box(furnished(lab, engine), engine, tmp_path_factory.mktemp(engine) / "certificates")
            for engine in ENGINES
        }


@pytest.fixture(scope="module")
def boxes(hives: dict[str, HiveBox]) -> dict[str, LabHost]:
    """Return the host for each launcher."""
    hosts = {engine: found.host for engine, found in hives.items()}
    return {launcher: hosts.get(launcher, hosts["podman"]) for launcher in USERS}


def as_hive(host: LabHost, launcher: str, arguments: str) -> tuple[int, str]:
    """Run the release's Python in a unit of its own, as a hive does, over the carried tests."""
    settings = {
        "RBEE_LAUNCHER": launcher,
        "RBEE_STATE": "/var/lib/rbee/alone",
        "RBEE_ADDRESS": host.address,
        "RBEE_UNIT": UNIT,
        "PYTHONPATH": "/srv/carried",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    told = " ".join(f"--setenv={key}={value}" for key, value in settings.items())
    line = f"systemd-run --quiet --wait --pipe --collect --unit={UNIT} --uid={USERS[launcher]} {told}"
    done = host.run(f"{line} {PYTHON} {arguments}", check=False, timeout=240)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("launcher", USERS)
def test_a_launcher_keeps_the_contract(launcher: str, boxes: dict[str, LabHost]) -> None:
    """The same tests pass against systemd, processes, Podman and Docker, as the user that the hive runs as."""
    options = "-q -p no:cacheprovider -o asyncio_mode=auto -o asyncio_default_fixture_loop_scope=function"
    chosen = "" if launcher in ENGINES else "-k 'not TestContainers'"
    contract = "/srv/carried/tests/sandbox/contract_on_host.py"
    status, said = as_hive(boxes[launcher], launcher, f"-m pytest {options} {chosen} {contract}")
    assert status == 0, said
    assert "skipped" not in said


@pytest.fixture(params=ENGINES)
def box(request: pytest.FixtureRequest, hives: dict[str, HiveBox]) -> HiveBox:
    """Return a hive that runs one ready worker and wants no other."""
    found = hives[request.param]
    found.host.run("systemctl start rbee.target")
    found.want(WORKER)
    found.reach(WORKER, "ready")
    wait_for("nothing else", lambda: found.containers() == {f"rbee-worker-{WORKER}": "running"})
    return found


def test_the_queen_reaches_a_worker_that_reaches_nothing(box: HiveBox) -> None:
    """From another machine the published port answers; the worker finds no way to an address of the internet."""
    attempt = f"import socket; socket.create_connection(('{OUTSIDE}', 9), 2)"
    found = box.worker(WORKER)
    done = box.host.run(f'nsenter --target {found["pid"]} --net python3 -c "{attempt}"', check=False)
    assert box.ask("/health", port=found["report"]["port"]).status_code == 200
    assert done.returncode != 0
    assert "unreachable" in done.stderr or "timed out" in done.stderr


def test_certificates_reach_the_worker_and_nobody_else(box: HiveBox) -> None:
    """Hive and queen call it by their certificates, a stranger cannot, and its key is nowhere to be seen."""
    found = box.worker(WORKER)
    port, pid = found["report"]["port"], found["pid"]
    stranger = ssl.create_default_context(cafile=box.certificates / "ca.pem")
    stranger.check_hostname = False
    with pytest.raises(httpx.TransportError):
        httpx.get(f"https://{box.host.address}:{port}/health", verify=stranger, trust_env=False)
    secret = (box.certificates / "worker.key").read_text().splitlines()[1]
    shown = json.dumps(box.inspect(WORKER)) + box.host.run(f"cat -v /proc/{pid}/environ /proc/{pid}/cmdline").stdout
    files = box.host.run(f"stat --format='%a %U %n' /var/lib/rbee/hive/containers/{WORKER}/*").stdout.split()
    assert "HF_HUB_OFFLINE" in shown
    assert secret not in shown
    assert files[0::3] == ["400"] * 4
    assert set(files[1::3]) == {"rbee-hive"}


def test_logs_come_through_the_hive(box: HiveBox) -> None:
    """The last lines of a worker, and of one that loads also those that it writes from now on."""
    last = box.ask(f"/api/v1/workers/{WORKER}/logs?lines=2").text.splitlines()
    assert any("event=ready" in line for line in last)
    assert len(last) <= 2
    box.want(WORKER, late={"load_s": "2"})
    wait_for("a process", lambda: box.worker("late").get("pid"))
    lines = box.lines("/api/v1/workers/late/logs?follow=1")
    assert next(line for line in lines if "event=ready" in line)
    lines.close()


def test_a_killed_or_removed_container_is_the_same_story_everywhere(box: HiveBox) -> None:
    """After `kill -9` and a removal by hand the reason is told, and hive and engine name the one new process."""
    box.want(WORKER, "victim")
    box.reach("victim", "ready")
    for accident, reason, said in (
        ("kill -9 {pid}", "killed", "signal 9"),
        ("{engine} rm --force rbee-worker-victim", "crashed", "was not this hive that removed it"),
    ):
        before = box.worker("victim")
        box.host.run(accident.format(pid=before["pid"], engine=box.engine))
        after = box.reach("victim", "ready", but=before["pid"])
        assert after["report"]["last_exit"] == reason
        assert said in after["said"]
        assert after["report"]["restarts"] == before["report"]["restarts"] + 1
        assert box.containers() == dict.fromkeys((f"rbee-worker-{WORKER}", after["report"]["unit"]), "running")
        assert box.inspect("victim")["State"]["Pid"] == after["pid"]


def test_a_reboot_brings_containers_back(box: HiveBox) -> None:
    """After a reboot the hive runs the wanted worker again by itself, in one container of this boot."""
    box.host.reboot()
    after = box.reach(WORKER, "ready")
    boot = box.host.run("cat /proc/sys/kernel/random/boot_id").stdout.strip()
    shown = box.inspect(WORKER)
    assert box.containers() == {f"rbee-worker-{WORKER}": "running"}
    assert (shown["State"]["Pid"], shown["Config"]["Labels"]["rbee.boot"]) == (after["pid"], boot)


def test_workers_serve_on_while_the_engine_is_down(box: HiveBox) -> None:
    """The worker keeps process, container and readiness; what cannot be done is told, and done later."""
    before, shown = box.worker(WORKER), box.inspect(WORKER)["Id"]
    box.host.run(f"systemctl stop {box.units}")
    box.want(WORKER, "more")
    wait_for("the reason", lambda: f"{box.engine} does not answer at" in box.detail("more"))
    wait_for("the trouble", lambda: f"run `systemctl start {box.engine}" in box.trouble())
    during = box.worker(WORKER)
    assert (during["report"]["state"], during["pid"], during["silent"]) == ("ready", before["pid"], None)
    assert box.ask("/health", port=before["report"]["port"]).status_code == 200
    box.host.run(box.bring_back)
    box.reach("more", "ready")
    after = box.worker(WORKER)
    assert (after["pid"], after["report"]["restarts"]) == (before["pid"], before["report"]["restarts"])
    assert box.inspect(WORKER)["Id"] == shown
    assert box.trouble() == ""


def test_an_image_that_is_away_and_a_taken_name_are_told(box: HiveBox) -> None:
    """Either keeps one worker from starting, with the sentence that mends it; a stranger is not touched."""
    box.host.run(f"{box.engine} tag {IMAGE} kept:lab && {box.engine} rmi {IMAGE}")
    box.want(WORKER, "third")
    told = box.reach("third", "backoff")["report"]["detail"]
    box.host.run(f"{box.engine} tag kept:lab {IMAGE}")
    box.want(WORKER)
    taken = f"{box.engine} create --name rbee-worker-fourth --entrypoint /bin/nothing {IMAGE}"
    stranger = box.host.run(taken).stdout.strip()
    box.want(WORKER, "fourth")
    refused = box.reach("fourth", "backoff")["report"]["detail"]
    found = box.inspect("fourth")["Id"]
    box.host.run(f"{box.engine} rename rbee-worker-fourth of-somebody")
    box.reach("fourth", "ready")
    box.host.run(f"{box.engine} rm of-somebody")
    assert f"image {IMAGE} is not on this host: run `{box.engine} pull {IMAGE}`" in told
    assert f"rename it with `{box.engine} rename rbee-worker-fourth NAME`" in refused
    assert found == stranger
    assert box.worker(WORKER)["report"]["state"] == "ready"


def test_the_target_stops_workers_in_containers(box: HiveBox) -> None:
    """`systemctl stop rbee.target` ends the worker in its container, in order, and the unit that does it succeeds."""
    pid = box.worker(WORKER)["pid"]
    box.host.run("systemctl stop rbee.target")
    # The command waits for the target alone; what is part of it stops after it.
    asked = "systemctl show --property=ActiveState --value rbee-workers"
    wait_for("the end", lambda: box.host.run(asked).stdout.strip() in {"inactive", "failed"}, seconds=DRAIN_SECONDS)
    assert box.host.run(f"test -d /proc/{pid}", check=False).returncode != 0
    assert "running" not in box.containers().values()
    assert box.host.run("systemctl show --property=Result rbee-workers").stdout.strip() == "Result=success"


MEMORY, PROCESSES = 128 * 2**20, 60


def test_limits_hold_and_their_end_is_told(box: HiveBox) -> None:
    """A worker's own control group has the set limits: a fork too many fails, want of memory is told as its end."""
    with limits.limiting(box, f"memory_limit: {MEMORY}, pids_limit: {PROCESSES}") as enter:
        wait_for("the hive", lambda: box.ask("/ready").status_code == 200)
        box.want("small")
        pid = box.reach("small", "ready")["pid"]
        shown, found = box.inspect("small")["HostConfig"], limits.limits(box, pid)
        forked = limits.refused_fork(box, enter, "small", pid=pid, most=2 * PROCESSES)
        limits.fill_memory(box, enter, "small", pid=pid, mebibytes=2 * MEMORY // 2**20)
        told = wait_for("the end", lambda: report if (report := box.worker("small")["report"])["last_exit"] else None)
    assert (shown["Memory"], shown["PidsLimit"]) == (MEMORY, PROCESSES)
    assert found == [str(MEMORY), str(PROCESSES)]
    assert 0 < forked[0] < PROCESSES
    assert forked[1] == errno.EAGAIN
    assert (told["last_exit"], told["exit_signal"]) == ("out_of_memory", 9)
    assert "want of memory" in told["detail"]


def test_a_worker_has_a_limit_of_memory_that_nobody_named(box: HiveBox) -> None:
    """Where the settings say nothing, its control group has the share of the host that `worker_limits` gives it."""
    with limits.limiting(box, f"pids_limit: {PROCESSES}"):
        wait_for("the hive", lambda: box.ask("/ready").status_code == 200)
        box.want("shared")
        pid = box.reach("shared", "ready")["pid"]
        found, total = limits.limits(box, pid), box.host.run("grep MemTotal /proc/meminfo").stdout.split()[1]
    share = int(total) * 1024 * worker_limits.MEMORY_PERCENT // 100
    # The kernel counts in pages.
    assert [int(each) for each in found] == [share - share % 4096, PROCESSES]
