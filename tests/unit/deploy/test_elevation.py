"""Becoming root on a host: every login user, every kind of sudo, nothing in a command line."""

import subprocess
from pathlib import Path

import pytest

from rbee_deploy.elevation import BEGIN, as_root, probe_as_root, stdin
from rbee_deploy.secrets import Secret

PASSWORD = "two words $1 'q'"
CATCH = 'printf "%s\\n" "$*" >>"$LOG"; while [ "$1" != -- ]; do shift; done; shift; '
SUDOS = {
    "asks": f'#!/bin/sh\n{CATCH}IFS= read -r word; [ "$word" = "$WANTED" ] || exit 1; exec "$@"\n',
    "does not ask": f'#!/bin/sh\n{CATCH}exec "$@"\n',
}


def shell(line: str, folder: Path, *, sudo: str | None, uid: int = 1000, given: str = "") -> tuple[int, str, str]:
    """Run a line as a made-up user; return exit status, output and what sudo was called with."""
    (folder / "id").write_text(f"#!/bin/sh\necho {uid}\n")
    if sudo is not None:
        (folder / "sudo").write_text(SUDOS[sudo])
    for program in folder.iterdir():
        program.chmod(0o755)
    for name in ("sh", "cat"):
        (folder / name).symlink_to(f"/bin/{name}")
    log = folder / "log"
    environment = {"PATH": str(folder), "LOG": str(log), "WANTED": PASSWORD}
    done = subprocess.run(
        ["/bin/sh", "-c", line], check=False, input=given, capture_output=True, text=True, env=environment
    )
    return done.returncode, done.stdout, log.read_text() if log.exists() else ""


def sent(password: str | None) -> str:
    """Return what pyinfra writes to the command."""
    lines = stdin(["the content"], password=Secret(password) if password is not None else None)
    return "".join(f"{line}\n" for line in lines or ())


@pytest.mark.parametrize(
    ("sudo", "uid", "password"),
    [
        ("asks", 1000, PASSWORD),
        ("does not ask", 1000, PASSWORD),
        ("does not ask", 1000, None),
        (None, 0, None),
        (None, 0, PASSWORD),
    ],
)
def test_the_content_arrives_whole(tmp_path: Path, sudo: str | None, uid: int, password: str | None) -> None:
    """Whether sudo asks, does not ask or is not needed, the script reads its own input and no more."""
    line = as_root("cat", password=password is not None)
    status, output, _ = shell(line, tmp_path, sudo=sudo, uid=uid, given=sent(password))
    assert (status, output) == (0, "the content\n")


def test_a_script_that_fails_early_lets_its_input_be_written(tmp_path: Path) -> None:
    """Whoever writes megabytes to a script that does not read them finishes, and hears its words and exit status."""
    line = as_root("echo the reason; exit 3", given=True)
    with subprocess.Popen(["/bin/sh", "-c", line], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        run.stdin.write(b"x" * (4 << 20))
        run.stdin.close()
        assert run.stdout.read() == b"the reason\n"
    assert run.returncode == 3


def test_a_wrong_password_fails_and_stays_off_the_command_line(tmp_path: Path) -> None:
    """Sudo's refusal is the command's, and no argument holds a word of the password."""
    status, output, called = shell(as_root("cat", password=True), tmp_path, sudo="asks", given=sent("canary"))
    assert (status, output) == (1, "")
    assert "canary" not in called


@pytest.mark.parametrize("value", ["a b", "it's", "$(echo no)", "`echo no`", 'say "hi"', "-n", "x;y&z|>", "\\"])
def test_scripts_keep_their_quoting(tmp_path: Path, value: str) -> None:
    """A quoted value comes out as it went in, through three shells."""
    import shlex  # noqa: PLC0415 - only this test quotes

    line = as_root(f"/usr/bin/printf %s {shlex.quote(value)}")
    assert shell(line, tmp_path, sudo="does not ask")[1] == ("" if value == "" else value)


@pytest.mark.parametrize(
    ("sudo", "said"), [(None, "@sudo missing\n"), ("asks", "@sudo refused\n"), ("does not ask", "@sudo ok\n")]
)
def test_a_probe_never_fails(tmp_path: Path, sudo: str | None, said: str) -> None:
    """What stands in the way of root is an answer, not an error."""
    assert shell(probe_as_root("echo @sudo ok"), tmp_path, sudo=sudo, given=f"{BEGIN}\n")[:2] == (0, said)
