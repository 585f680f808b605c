"""All four launchers keep the one contract on a real host, with real workers; containers are seen from outside too."""

import io
import json
import socket
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from rbee_deploy.render import template_text
from rbee_runtime import ports
from tests.lab import Lab, LabHost
from tests.sandbox.furnishing import RELEASE, furnish, install_release

pytestmark = pytest.mark.lab

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PYTHON = f"{RELEASE}/bin/python"
CARRIED = (
    "tests/__init__.py",
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
WORKERS = "rbee-workers.service"
HIVE = """
name: box1
launcher: {engine}
state_dir: /var/lib/rbee/alone
containers: {{image: "rbee-worker:lab"}}
"""
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
    """Let the hive's user speak to both engines, as docs/decisions/0007-worker-containers.md says."""
    host.put("[Socket]\nSocketGroup=rbee-hive\nSocketMode=0660\n", "/etc/systemd/system/podman.socket.d/rbee.conf")
    host.put("d /run/podman 0755 root root\n", "/etc/tmpfiles.d/rbee-podman.conf")
    host.run("systemctl daemon-reload && systemctl restart podman.socket && chmod 755 /run/podman")
    host.run("usermod --append --groups docker rbee-hive")


def furnished(lab: Lab, engine: str) -> LabHost:
    """Return a host with a release and an image of a worker."""
    host = lab.add_host(engine, image="containers")
    furnish(host)
    install_release(host)
    carry(host)
    admit_hive(host)
    host.run(f"{PYTHON} /srv/carried/tests/sandbox/worker_image.py rbee-worker:lab {engine}", timeout=120)
    host.run("install -d -o rbee-hive -g rbee-hive -m 0700 /var/lib/rbee/alone && systemctl daemon-reload")
    return host


@pytest.fixture(scope="module")
def boxes() -> Iterator[dict[str, LabHost]]:
    """Return a host per engine: Docker lets nothing through to the containers of others."""
    with Lab.create("launchers") as lab:
        hosts = {engine: furnished(lab, engine) for engine in ENGINES}
        yield {launcher: hosts.get(launcher, hosts["podman"]) for launcher in USERS}


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


@dataclass
class Started:
    """A worker in a container; the pid is its host's."""

    box: LabHost
    worker: str
    port: int
    pid: int


@pytest.fixture(params=ENGINES)
def started(request: pytest.FixtureRequest, boxes: dict[str, LabHost]) -> Iterator[Started]:
    """Return a worker in a container, on a host that stops it with everything of rbee."""
    box = boxes[request.param]
    box.put(template_text("systemd/rbee-workers.service.j2", ports=ports), f"/etc/systemd/system/{WORKERS}")
    box.put(HIVE.format(engine=request.param), "/etc/rbee/hive.yaml")
    box.run(f"systemctl daemon-reload && systemctl enable {WORKERS} && systemctl start rbee.target")
    status, said = as_hive(box, request.param, "/srv/carried/tests/sandbox/contract_on_host.py")
    assert status == 0, said
    yield Started(box, **json.loads(said.splitlines()[0]))
    box.run("systemctl stop rbee.target", timeout=240)


def runs(found: Started) -> bool:
    """Say whether the worker's process is there."""
    return found.box.run(f"test -d /proc/{found.pid}", check=False).returncode == 0


def test_the_queen_reaches_a_worker_that_reaches_nothing(started: Started) -> None:
    """From another machine the published port answers; the worker finds no way to an address of the internet."""
    with socket.create_connection((started.box.address, started.port), timeout=5) as asked:
        asked.sendall(b"GET /health HTTP/1.1\r\nhost: w\r\nconnection: close\r\n\r\n")
        answer = asked.recv(100)
    attempt = f"import socket; socket.create_connection(('{OUTSIDE}', 9), 2)"
    done = started.box.run(f'nsenter --target {started.pid} --net python3 -c "{attempt}"', check=False)
    assert answer.startswith(b"HTTP/1.1 ")
    assert done.returncode != 0
    assert "unreachable" in done.stderr or "timed out" in done.stderr


def test_the_target_stops_workers_in_containers(started: Started) -> None:
    """`systemctl stop rbee.target` ends the worker in its container, in order, and the unit that does it succeeds."""
    assert runs(started)
    started.box.run("systemctl stop rbee.target")
    # The command waits for the target alone; what is part of it stops after it.
    deadline = time.monotonic() + DRAIN_SECONDS
    while started.box.run(f"systemctl is-active {WORKERS}", check=False).stdout.strip() not in {"inactive", "failed"}:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert not runs(started)
    assert started.box.run(f"systemctl show --property=Result {WORKERS}").stdout.strip() == "Result=success"
