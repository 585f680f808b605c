"""The locks of shadow's tools: nobody's line gets lost, and a lock that nobody holds keeps nobody."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rbee_deploy.activator.rootless import locking
from rbee_deploy.activator.units import ActivationError

ADDING = """\
import os, sys
from pathlib import Path
from rbee_deploy.activator.rootless import locking
locking.PASSWORDS = Path(sys.argv[1]) / ".pwd.lock"
file = Path(sys.argv[1]) / "subuid"
for number in range(20):
    with locking.held(file):
        text = file.read_text()
        file.write_text(text + f"{sys.argv[2]}:{number}:1\\n")
"""


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file that is changed."""
    monkeypatch.setattr(locking, "PASSWORDS", tmp_path / ".pwd.lock")
    monkeypatch.setattr(locking, "WAIT_SECONDS", 0.3)
    path = tmp_path / "subuid"
    path.write_text("anna:100000:65536\n")
    return path


def lock_of(file: Path) -> Path:
    return file.with_name("subuid.lock")


def test_the_lock_is_what_shadow_looks_for(file: Path) -> None:
    """A link of two names while it is taken, with the pid as its tools write it; nothing is left of it afterwards."""
    with locking.held(file):
        assert lock_of(file).read_bytes() == f"{os.getpid()}\0".encode()
        with (file.parent / ".pwd.lock").open("r+") as other:
            script = "import fcntl, sys; fcntl.lockf(sys.stdin.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)"
            done = subprocess.run([sys.executable, "-c", script], stdin=other, capture_output=True, check=False)
        assert done.returncode != 0
    assert sorted(path.name for path in file.parent.iterdir()) == [".pwd.lock", "subuid"]


def test_it_goes_with_an_error(file: Path) -> None:
    """Whatever happens under it."""
    with pytest.raises(ZeroDivisionError), locking.held(file):
        raise ZeroDivisionError
    assert not lock_of(file).exists()


@pytest.mark.parametrize("text", ["{pid}\0", "{pid}", "no number", "", "99999999999999999999999"])
def test_whoever_holds_it_is_waited_for(file: Path, text: str) -> None:
    """And then named; a lock of which nobody can say whose it is stays where it is."""
    lock_of(file).write_text(text.format(pid=os.getppid()))
    with pytest.raises(ActivationError, match=r"somebody holds .*subuid\.lock for more than"), locking.held(file):
        pytest.fail("it was held")
    assert lock_of(file).read_text() == text.format(pid=os.getppid())


def test_the_lock_of_all_passwords_is_waited_for(file: Path) -> None:
    """That one goes with the process that has it."""
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX); print(flush=True); input()"
    words = [sys.executable, "-c", script, str(locking.PASSWORDS)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        with pytest.raises(ActivationError, match=r"somebody holds .*\.pwd\.lock"), locking.held(file):
            pytest.fail("it was held")
        other.kill()
    with locking.held(file):
        assert lock_of(file).exists()


def test_a_lock_of_a_process_that_is_gone_is_nobody_s(file: Path) -> None:
    """As after a useradd that was killed."""
    with subprocess.Popen(["true"]) as gone:
        pass
    lock_of(file).write_text(f"{gone.pid}\0")
    with locking.held(file):
        assert lock_of(file).read_text() == f"{os.getpid()}\0"


def test_no_line_is_lost_of_two_who_write_at_once(file: Path) -> None:
    """Each reads and writes the whole file."""
    words = [sys.executable, "-c", ADDING, str(file.parent)]
    both = [subprocess.Popen([*words, name]) for name in ("one", "two")]
    assert [each.wait(60) for each in both] == [0, 0]
    lines = file.read_text().splitlines()
    assert len(lines) == 1 + 2 * 20
    assert len({*lines}) == len(lines)
