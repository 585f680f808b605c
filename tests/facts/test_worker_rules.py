"""The part of the state fact about what keeps workers in, run for real beside a made-up nft."""

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.facts import worker_rules
from rbee_deploy.facts.state import RbeeState
from rbee_runtime.worker_bridge import TABLES

NFT = """\
#!/bin/sh
case "$*" in
"list tables") printf "%s" "{listed}";;
"-c -f -") grep -q "bridge" && {{ {tried}; }};;
*) exit 9;;
esac
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


@pytest.mark.parametrize(
    ("listed", "tried", "found"),
    [
        (OURS, "true", {"tool": True, "broken": "", "tables": list(TABLES)}),
        (f"table ip nat\n{OURS}", "true", {"tool": True, "broken": "", "tables": list(TABLES)}),
        (f"table {TABLES[1]}\n", "true", {"tool": True, "broken": "", "tables": [TABLES[1]]}),
        ("table inet rbee-workers-2\n", "true", {"tool": True, "broken": "", "tables": []}),
        ("", "echo 'Error: @os no' >&2; exit 1", {"tool": True, "broken": "Error: os no", "tables": []}),
    ],
)
def test_what_is_in_force_is_told(tmp_path: Path, listed: str, tried: str, found: dict[str, Any]) -> None:
    """Our tables are named and nobody else's, and what the kernel does not take comes in the words of nft."""
    (tmp_path / "nft").write_text(NFT.format(listed=listed, tried=tried))
    (tmp_path / "nft").chmod(0o755)
    assert read(tmp_path)["worker_rules"] == found


def test_hosts_without_containers_are_not_asked(tmp_path: Path) -> None:
    """Nothing is run there, and nothing told."""
    assert worker_rules.script(None) == ""
    assert "worker_rules" not in read(tmp_path, None)
