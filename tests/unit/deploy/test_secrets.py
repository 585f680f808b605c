"""Secrets print masked and come from outside the inventory."""

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_deploy.errors import SecretError
from rbee_deploy.secrets import Secret, SecretSource, secret_command, secret_env, secret_file

CANARY = "canary-3141592653"


@pytest.mark.parametrize(
    "show", [str, repr, format, "{:>20}".format, "%s".__mod__, lambda s: repr([s]), Secret.to_json]
)
def test_a_secret_prints_masked(show: object) -> None:
    """No way of printing a secret shows it."""
    assert callable(show)
    assert CANARY not in show(Secret(CANARY))
    assert "****" in show(Secret(CANARY))


def test_reveal_is_the_one_way_out() -> None:
    """`reveal` gives the text, and copies stay secrets of the same value."""
    secret = Secret(CANARY)
    assert secret.reveal() == CANARY
    assert copy.deepcopy(copy.copy(secret)) == secret
    assert secret != Secret("other")


def test_a_secret_is_not_pickled() -> None:
    """A secret does not slip into a cache or another process."""
    with pytest.raises(SecretError, match="pickle"):
        pickle.dumps(Secret(CANARY))


def test_the_version_follows_the_value() -> None:
    """Another value has another version, the same value the same; an issuer's own id wins."""
    assert Secret("a").version == Secret("a").version
    assert Secret("a").version != Secret("b").version
    assert Secret("a", version="7").version == "7"


def private(path: Path, text: str, mode: int = 0o600) -> Path:
    path.write_text(text)
    path.chmod(mode)
    return path


def test_sources_give_the_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Environment, file and command each give the text without its newline, blanks inside kept."""
    monkeypatch.setenv("RBEE_TEST_SECRET", "two words $1")
    path = private(tmp_path / "secret", "two words $1\n")
    sources: list[SecretSource] = [
        secret_env("RBEE_TEST_SECRET"),
        secret_file(path),
        secret_command(["printf", "%s\nsecond line\n", "two words $1"]),
    ]
    assert [source.read().reveal() for source in sources] == ["two words $1"] * 3


def latin(path: Path) -> Path:
    path.write_bytes("é".encode("latin-1"))
    path.chmod(0o600)
    return path


BAD: dict[str, tuple[Callable[[Path], SecretSource], str]] = {
    "unset variable": (lambda _: secret_env("RBEE_NOT_SET"), "environment variable RBEE_NOT_SET is not set; export it"),
    "no file": (lambda folder: secret_file(folder / "no"), "cannot read the secret file"),
    "open file": (lambda folder: secret_file(private(folder / "s", CANARY, 0o640)), "is open to others; run chmod 600"),
    "a folder": (secret_file, ": is a directory"),
    "no text": (lambda folder: secret_file(latin(folder / "s")), ": it is not UTF-8 text"),
    "empty file": (lambda folder: secret_file(private(folder / "s", "\n")), "is empty"),
    "no command": (lambda _: secret_command(["rbee-no-such-command"]), "secret command rbee-no-such-command failed"),
    "no program": (lambda _: secret_command(["rbee-no-such"]), "rbee-no-such failed: there is no such program; run it"),
    "no permission": (
        lambda folder: secret_command([str(private(folder / "program", "true"))]),
        "/program failed: permission denied; run it",
    ),
    "command of other bytes": (lambda _: secret_command(["printf", "\\351"]), "failed: what it printed is not UTF-8"),
    "failing command": (lambda _: secret_command(["sh", "-c", f"echo {CANARY}; exit 3"]), "(exit status 3)"),
    "silent command": (lambda _: secret_command(["true"]), "secret command true gave no secret"),
    "a shell line": (lambda _: secret_command("pass show x"), "takes a list of words"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_source_without_a_secret_says_so(case: str, tmp_path: Path) -> None:
    """Each failing source is one sentence that names it and shows no secret."""
    make, sentence = BAD[case]
    with pytest.raises(SecretError) as caught:
        make(tmp_path).read()
    assert sentence in str(caught.value)
    assert CANARY not in str(caught.value)


def test_a_missing_file_is_named_once(tmp_path: Path) -> None:
    """The system's own sentence, which repeats the path and has a number, is not part of it."""
    with pytest.raises(SecretError) as caught:
        secret_file(tmp_path / "no").read()
    assert str(caught.value) == f"cannot read the secret file {tmp_path / 'no'}: no such file or directory"


def test_a_command_that_takes_too_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """A password manager that waits for nobody ends in a sentence with the limit."""
    monkeypatch.setattr("rbee_deploy.secrets.COMMAND_SECONDS", 0.2)
    with pytest.raises(SecretError, match="secret command sleep failed: it took longer than 0 s; run it by hand"):
        secret_command(["sleep", "30"]).read()
