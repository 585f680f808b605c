"""The lease, by the scripts themselves in a real shell: who may change a host, and how it heals."""

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_deploy import advised, lease
from rbee_deploy.activator import places

Run = Callable[[str], "subprocess.CompletedProcess[str]"]


@pytest.fixture
def sh(tmp_path: Path) -> Run:
    """Run a script in a shell, on a host whose folders lie in a temporary one."""

    def run(script: str) -> "subprocess.CompletedProcess[str]":
        for folder in (places.RUN, places.HOME):
            script = script.replace(str(folder), str(tmp_path / folder.name))
        return subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False, timeout=20)

    return run


def age(tmp_path: Path, seconds: float) -> None:
    """Let a lease grow older."""
    moment = time.time() - seconds
    os.utime(tmp_path / places.RUN.name / places.LEASE.name, (moment, moment))


def test_one_at_a_time(sh: Run) -> None:
    """The first deploy gets the lease, and again; the second hears who has it and since when."""
    assert sh(lease.take("run1", "anna@desk")).returncode == 0
    assert sh(lease.take("run1", "anna@desk")).returncode == 0
    refused = sh(lease.take("run2", "bert@laptop"))
    assert refused.returncode == 1
    assert refused.stderr.startswith("anna@desk deploys to this host since 20")


def test_a_silent_holder_loses_it(sh: Run, tmp_path: Path) -> None:
    """Without a sign of life the lease is free, and what its holder sends afterwards does nothing."""
    sh(lease.take("run1", "anna@desk"))
    age(tmp_path, lease.STALE_SECONDS + 1)
    assert sh(lease.take("run2", "bert@laptop")).returncode == 0
    late = sh(f"{lease.held('run1')}\necho changed")
    assert (late.returncode, late.stdout) == (lease.LOST, "")
    assert "another deploy took this host over" in late.stderr


def test_one_from_the_future_does_not_last_until_then(sh: Run, tmp_path: Path) -> None:
    """A lease of a host whose clock was hours ahead is nobody's once it is right; a second of difference is none."""
    sh(lease.take("run1", "anna@desk"))
    age(tmp_path, -2)
    assert sh(lease.take("run2", "bert@laptop")).returncode == 1
    age(tmp_path, -7200)
    assert sh(lease.take("run2", "bert@laptop")).returncode == 0


def test_a_run_has_ended_only_when_its_process_is_gone_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not when /proc hides it, when it is somebody else's, or when its ids mean other processes."""
    mine = lease.new_id()
    monkeypatch.setattr(Path, "exists", lambda _path: False)
    assert not lease.has_ended(mine)
    assert not lease.has_ended(mine.replace(str(os.getpid()), "1"))
    with subprocess.Popen(["true"]) as process:
        process.wait()
    gone = mine.replace(f"-{os.getpid()}-", f"-{process.pid}-")
    assert lease.has_ended(gone)
    monkeypatch.setattr(lease, "_machine", lambda: "elsewhere")
    assert not lease.has_ended(gone)


def test_every_command_renews_it(sh: Run, tmp_path: Path) -> None:
    """A deploy that goes on keeps its lease however long it takes."""
    sh(lease.take("run1", "anna@desk"))
    # Nearly stale, but for what a busy machine takes to start a shell.
    age(tmp_path, lease.STALE_SECONDS - 15)
    assert sh(f"{lease.held('run1')}\necho changed").stdout == "changed\n"
    assert time.time() - (tmp_path / places.RUN.name / places.LEASE.name).stat().st_mtime < lease.STALE_SECONDS - 15
    age(tmp_path, lease.STALE_SECONDS - 15)
    assert sh(lease.take("run2", "bert@laptop")).returncode == 1


def test_it_is_given_back_by_its_holder_alone(sh: Run) -> None:
    """Giving back another's lease does nothing; the holder's ends it."""
    sh(lease.take("run1", "anna@desk"))
    assert sh(lease.give_back("run2")).returncode == 0
    assert sh(lease.take("run2", "bert@laptop")).returncode == 1
    sh(lease.give_back("run1"))
    assert sh(lease.take("run2", "bert@laptop")).returncode == 0


def test_a_run_that_is_known_to_be_over_is_not_waited_for(sh: Run) -> None:
    """After a crash the same machine goes on at once, for its earlier process is gone."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    machine = lease.new_id().split("-")[0]
    over, alive = f"{machine}-{gone.pid}-ab", f"{machine}-{os.getpid()}-ab"
    assert (lease.has_ended(over), lease.has_ended(alive), lease.has_ended(f"other-{gone.pid}-ab")) == (
        True,
        False,
        False,
    )
    sh(lease.take(over, "anna@desk"))
    assert sh(lease.take("run2", "anna@desk", ended=over)).returncode == 0


def test_a_freeze_stops_everybody_until_it_is_released(sh: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Deploys hear who forbade them, why and what to type to end it; a second freeze does not take over the first."""
    assert sh(lease.freeze("anna@desk", "a demo\ton Monday;\ndo not 'touch'")).stdout == ""
    assert sh(lease.freeze("bert@laptop", "other")).stdout == f"{lease.FROZEN}\n"
    monkeypatch.setattr(advised, "inventory", "our fleet.py")
    refused = sh(lease.take("run1", "carl@box"))
    assert refused.returncode == 1
    assert "frozen here by anna@desk since 20" in refused.stderr
    said = ": a demo on Monday; do not 'touch'; rbee-deploy lock --release -i 'our fleet.py' ends that\n"
    assert refused.stderr.endswith(said)
    sh(lease.thaw())
    assert sh(lease.take("run1", "carl@box")).returncode == 0
