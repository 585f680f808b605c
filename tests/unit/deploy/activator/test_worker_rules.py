"""The rules about what workers in containers may reach, as the activator handles them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_deploy.activator import images, units, worker_rules, workers
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.activator.units import ActivationError
from tests.unit.deploy.activator.conftest import FakeSystemd, staged

REMOVED = """\
table inet rbee-workers
delete table inet rbee-workers
table bridge rbee-workers
delete table bridge rbee-workers
"""


@pytest.mark.parametrize("fails", [False, True])
def test_they_are_removed_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    """Both tables go in one transaction, there or not; one that fails stops no activation."""
    nft = tmp_path / "nft"
    nft.write_text(f'#!/bin/sh\necho "$@" >>{tmp_path}/said; cat >>{tmp_path}/said; exit {int(fails)}\n')
    nft.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    worker_rules.remove()
    assert (tmp_path / "said").read_text() == f"-f -\n{REMOVED}"


def test_a_host_without_nft_has_none_to_remove(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is said."""
    monkeypatch.setenv("PATH", str(tmp_path))
    worker_rules.remove()


def test_what_nft_says_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules that are not taken stop an activation with the last lines of their unit."""

    def systemctl(*_: str) -> str:
        raise ActivationError("systemctl restart failed")

    monkeypatch.setattr(units, "look", lambda names: {name: units.Unit() for name in names})
    monkeypatch.setattr(units, "systemctl", systemctl)
    monkeypatch.setattr(units, "journal", lambda unit: [f"{unit} says: Operation not supported"])
    with pytest.raises(ActivationError, match=r"rbee-network\.service failed; its last lines:\n.*not supported"):
        worker_rules.load(stale=True)


@pytest.mark.parametrize(
    ("before", "after", "shuts"),
    [
        ("podman", "docker", True),
        ("podman", "podman-rootless", True),
        ("podman", "", True),
        ("podman", "podman", False),
        ("docker", "podman", False),
        ("podman-rootless", "docker", False),
    ],
)
def test_whoever_leaves_podman_is_let_through_no_more(
    before: str, after: str, shuts: bool, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What Docker lets through for workers of root's Podman ends with them, whatever runs workers then."""
    said: list[str] = []
    monkeypatch.setattr(images, "end", lambda known, **_how: said.append(f"end {known.engine}"))
    monkeypatch.setattr(worker_rules, "shut", lambda: said.append("shut"))
    workers.end([guarded_by(before)], guarded_by(after))
    ended = [f"end {before}"] if before != after else []
    assert said == [*ended, *(["shut"] if shuts else [])]


def guarded_by(engine: str) -> Generation:
    """Return a generation whose guard asks this engine; "" is none."""
    program, _, rootless = engine.partition("-")
    known = {"engine": program, "fleet": "f", "hive": "h", "network": "n", "images": []}
    settings = json.dumps(known | ({"engine_user": "u"} if rootless else {}))
    return staged("r1", {"guard.json": settings} if engine else {})


IPTABLES = """\
import pathlib, sys
rules = pathlib.Path({rules!r})
lines = rules.read_text().splitlines() if rules.exists() else []
match sys.argv[3:]:
    case ["-C", "FORWARD", "-j", "DOCKER-USER"]:
        sys.exit(0)
    case ["-N", "DOCKER-USER"]:
        sys.exit(int("DOCKER-USER" in lines) or rules.write_text("DOCKER-USER\\n") and 0)
    case ["-C", "DOCKER-USER", *rule]:
        sys.exit(int(" ".join(rule) not in lines))
    case ["-I", "DOCKER-USER", *rule] if "DOCKER-USER" in lines:
        rules.write_text("".join(f"{{line}}\\n" for line in (*lines, " ".join(rule))))
    case ["-D", "DOCKER-USER", *rule] if " ".join(rule) in lines:
        rules.write_text("".join(f"{{line}}\\n" for line in lines if line != " ".join(rule)))
    case _:
        sys.exit(1)
"""
ALLOWED = [
    "-o rbee-workers -j ACCEPT",
    "-i rbee-workers -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
]


@pytest.mark.parametrize("docker", [True, False])
def test_a_docker_beside_podman_forwards_for_workers(tmp_path: Path, docker: bool) -> None:
    """Its chain of users has each rule once, however often that is asked for, and none once it is taken back."""
    rules = tmp_path / "rules"
    programs = {"iptables": f'exec {sys.executable} {tmp_path}/iptables.py "$@"', "dockerd": ":"}
    (tmp_path / "iptables.py").write_text(IPTABLES.format(rules=str(rules)))
    for name in programs if docker else ("iptables",):
        (tmp_path / name).write_text(f"#!/bin/sh\n{programs[name]}\n")
        (tmp_path / name).chmod(0o755)
    for _ in range(2):
        done = subprocess.run(
            ["/bin/sh", "-c", worker_rules.let_through()], env={"PATH": str(tmp_path)}, capture_output=True, check=True
        )
        assert done.stderr == b""
        assert rules.exists() is docker
        assert not docker or rules.read_text().splitlines() == ["DOCKER-USER", *ALLOWED]
        asked = subprocess.run(
            ["/bin/sh", "-c", worker_rules.is_let_through()], env={"PATH": str(tmp_path)}, check=False
        )
        assert asked.returncode == 0
    subprocess.run(["/bin/sh", "-c", worker_rules.shut_again()], env={"PATH": str(tmp_path)}, check=True)
    assert not docker or rules.read_text() == "DOCKER-USER\n"
    asked = subprocess.run(["/bin/sh", "-c", worker_rules.is_let_through()], env={"PATH": str(tmp_path)}, check=False)
    assert asked.returncode == int(docker)


@pytest.mark.parametrize(("fails", "status"), [("-N", 0), ("-o rbee-workers", 4), ("RELATED", 4), ("nothing", 0)])
def test_a_docker_that_takes_no_rule_is_told(tmp_path: Path, fails: str, status: int) -> None:
    """The script ends as iptables does, and with its words; that the chain is there already is no fault."""
    said = f'case "$*" in *"-C "*) exit 1;; *"{fails}"*) echo "iptables: no" >&2; exit 4;; esac'
    for name in ("iptables", "dockerd"):
        (tmp_path / name).write_text(f"#!/bin/sh\n{said}\n")
        (tmp_path / name).chmod(0o755)
    done = subprocess.run(
        ["/bin/sh", "-c", worker_rules.let_through()], env={"PATH": str(tmp_path)}, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (status, b"iptables: no\n" if status else b"")


@pytest.mark.parametrize(
    ("fails", "in_its_way"), [("-C FORWARD", False), ("-C DOCKER-USER", True), ("-C", False), ("nothing", False)]
)
def test_a_docker_that_asks_its_chain_of_nothing_is_in_nobody_s_way(
    tmp_path: Path, fails: str, in_its_way: bool
) -> None:
    """One that is not in use, or an iptables that does not work, is no fault that every run would find anew."""
    for name in ("iptables", "dockerd"):
        (tmp_path / name).write_text(f'#!/bin/sh\ncase "$*" in *"{fails}"*) exit 4;; esac\n')
        (tmp_path / name).chmod(0o755)
    asked = subprocess.run(["/bin/sh", "-c", worker_rules.is_let_through()], env={"PATH": str(tmp_path)}, check=False)
    assert (asked.returncode != 0) is in_its_way


@pytest.mark.parametrize("there", [("dockerd",), ("iptables",)])
def test_a_docker_that_forwards_by_other_means_is_left_alone(tmp_path: Path, there: tuple[str, ...]) -> None:
    """Where either program is missing nothing is run, and nothing is amiss."""
    for name in there:
        (tmp_path / name).write_text("#!/bin/sh\nexit 9\n")
        (tmp_path / name).chmod(0o755)
    for script in (worker_rules.let_through(), worker_rules.is_let_through()):
        done = subprocess.run(["/bin/sh", "-c", script], env={"PATH": str(tmp_path)}, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
