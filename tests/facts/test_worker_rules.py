"""The part of the state fact about what keeps workers in, run for real beside a made-up nft."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.facts import worker_rules
from rbee_deploy.facts.state import RbeeState
from rbee_runtime import ports
from rbee_runtime.worker_bridge import TABLES

NFT = """\
#!/bin/sh
case "$*" in
"list tables") printf "%s" "{listed}";;
"-c -f -") grep -q "bridge" && {{ {tried}; }};;
"-f /etc/rbee/workers.nft") [ "$APART" = yes ] || exit 9; {loaded};;
"list table "*) [ "$APART" = yes ] && echo "$* drop" || echo "$* {in_force}";;
*) exit 9;;
esac
"""
UNSHARE = """\
#!/bin/sh
[ "$1" = -n ] && shift && APART=yes exec "$@"
"""
OURS = "".join(f"table {table}\n" for table in TABLES)


def read(folder: Path, engine: str | None = "podman") -> dict[str, Any]:
    """Run the part with a folder's programs in front."""
    environment = {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-c", worker_rules.script(engine)], capture_output=True, text=True, env=environment, check=False
    )
    found: dict[str, Any] = RbeeState().process(["@sudo ok", *done.stdout.splitlines()])
    return found


def write(
    folder: Path, *, listed: str = OURS, tried: str = "true", in_force: str = "drop", loaded: str = "true"
) -> None:
    """Write the programs."""
    nft = NFT.format(listed=listed, tried=tried, in_force=in_force, loaded=loaded)
    for name, text in (("nft", nft), ("unshare", UNSHARE)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("listed", "tried", "found"),
    [
        (OURS, "true", {"broken": "", "tables": list(TABLES)}),
        (f"table ip nat\n{OURS}", "true", {"broken": "", "tables": list(TABLES)}),
        (f"table {TABLES[1]}\n", "true", {"broken": "", "tables": [TABLES[1]]}),
        ("table inet rbee-workers-2\n", "true", {"broken": "", "tables": []}),
        ("", "echo 'Error: @os no' >&2; exit 1", {"broken": "Error: os no", "tables": []}),
    ],
)
def test_what_is_in_force_is_told(tmp_path: Path, listed: str, tried: str, found: dict[str, Any]) -> None:
    """Our tables are named and nobody else's, and what the kernel does not take comes in the words of nft."""
    write(tmp_path, listed=listed, tried=tried)
    assert read(tmp_path)["worker_rules"] == {
        "tool": True,
        "changed": False,
        "marked": True,
        "shut": False,
        **found,
    }


@pytest.mark.parametrize(
    ("in_force", "loaded", "changed"),
    [("drop", "true", False), ("accept", "true", True), ("", "true", True), ("accept", "exit 1", False)],
)
def test_rules_that_somebody_changed_are_told(tmp_path: Path, in_force: str, loaded: str, changed: bool) -> None:
    """What is in force is held to what the file would be elsewhere; to nothing where that cannot be known."""
    write(tmp_path, in_force=in_force, loaded=loaded)
    assert read(tmp_path)["worker_rules"]["changed"] is changed


@pytest.mark.parametrize(
    ("there", "guard", "marked"),
    [
        (True, "in-force", True),
        (False, "in-force", False),
        (False, "", True),
        (False, None, True),
        (True, "", True),
    ],
)
def test_what_the_guard_goes_by_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, there: bool, guard: str | None, marked: bool
) -> None:
    """The mark that the unit of the rules makes is looked for where the guard does, which one of before does not."""
    write(tmp_path, listed="")
    monkeypatch.setattr(ports, "NETWORK_MARK", tmp_path / "in-force")
    monkeypatch.setattr(ports, "ETC", tmp_path)
    if there:
        (tmp_path / "in-force").touch()
    if guard is not None:
        (tmp_path / "guard.json").write_text(json.dumps({"rules": f"{tmp_path}/{guard}".rstrip("/")}, indent=1))
    assert read(tmp_path)["worker_rules"]["marked"] is marked


@pytest.mark.parametrize(
    ("engine", "there", "lacks", "shut"),
    [
        ("podman", ("dockerd", "iptables"), "ESTABLISHED", True),
        ("podman", ("dockerd", "iptables"), "-o rbee-workers", True),
        ("podman", ("dockerd", "iptables"), "nothing", False),
        ("podman", ("iptables",), "-o rbee-workers", False),
        ("docker", ("dockerd", "iptables"), "-o rbee-workers", False),
        ("podman-rootless", ("dockerd", "iptables"), "-o rbee-workers", False),
    ],
)
def test_a_docker_that_forwards_nothing_is_told(
    tmp_path: Path, engine: str, there: tuple[str, ...], lacks: str, shut: bool
) -> None:
    """One beside root's Podman is asked for both rules, and on other hosts none."""
    write(tmp_path)
    for name in there:
        text = (
            f'#!/bin/sh\ncase "$*" in *{lacks.replace(" ", chr(92) + " ")}*) exit 1;; *-C*) exit 0;; *) exit 9;; esac\n'
        )
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    assert read(tmp_path, engine)["worker_rules"]["shut"] is shut


def test_hosts_without_containers_are_not_asked(tmp_path: Path) -> None:
    """Nothing is run there, and nothing told."""
    assert worker_rules.script(None) == ""
    assert "worker_rules" not in read(tmp_path, None)
