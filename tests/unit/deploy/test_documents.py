"""Documents of the commands that act: one on standard output, whole and alike however the command ends."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy import cli, interrupt, report
from rbee_deploy.cli import documents
from rbee_deploy.errors import DeployError
from rbee_runtime import __version__

FIELDS = ["command", "status", "problem", "advice", "stages", "result"]
LINES = [
    report.Line("queen", "look", 0.04, report.Verdict.UNCHANGED, []),
    report.Line("gpu1", "purge", 1.26, report.Verdict.FAILED, ["it is full", "more", "do this"]),
    report.Line("gpu2", "connect", None, report.Verdict.CUT_OFF, []),
]


@pytest.fixture
def answer(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, Any, str]]:
    """Run a function as if it were the command `lock` on an inventory; return status, document and errors."""

    def run(command: Callable[[argparse.Namespace], int], *lines: report.Line) -> tuple[int, Any, str]:
        monkeypatch.setattr(report, "lines", lambda _: list(lines))
        options = argparse.Namespace(command="lock", document=True)
        try:
            status = documents.answered(options, command)
        except BaseException as error:  # noqa: BLE001 - it goes on to whoever ends the program
            status = -1 if isinstance(error, KeyboardInterrupt) else 1
        said = capsys.readouterr()
        return status, json.loads(said.out), said.err

    return run


def test_a_document_has_what_a_person_would_have_been_told(answer: Any) -> None:
    """Facts take the place of the lines, and whatever else is printed goes to standard error."""

    def command(options: argparse.Namespace) -> int:
        sys.stdout.write("by pyinfra\n")
        documents.tell(options, "gpu1  free", hosts=[{"host": "gpu1"}])
        return 0

    status, found, errors = answer(command, LINES[0])
    assert (status, list(found), errors) == (0, FIELDS, "by pyinfra\n")
    assert (found["command"], found["status"], found["problem"], found["advice"]) == ("lock", 0, None, None)
    assert found["result"] == {"hosts": [{"host": "gpu1"}]}
    assert found["stages"] == [
        {"host": "queen", "stage": "look", "seconds": 0.0, "verdict": "unchanged", "notes": []},
    ]


def test_stages_that_fail_are_the_problem(answer: Any) -> None:
    """A run that ends with 1 without a word more says what failed, where, and what to do."""
    status, found, _ = answer(lambda _: 1, *LINES)
    assert (status, found["status"], found["advice"]) == (1, 1, documents.AGAIN)
    assert found["problem"] == "gpu1: purge failed: it is full; gpu2: connect cut off"
    assert found["stages"][1]["notes"] == ["it is full", "more", "do this"]


def test_a_problem_that_says_what_to_do_gets_no_more_advice(answer: Any) -> None:
    """A freeze names what ends it; where another host failed for another reason, that one needs the advice."""
    frozen = report.Line("gpu1", "lease", 0.1, report.Verdict.FAILED, ["frozen; rbee-deploy lock --release -i x ends"])
    assert answer(lambda _: 1, frozen)[1]["advice"] is None
    assert answer(lambda _: 1, frozen, LINES[1])[1]["advice"] == documents.AGAIN


@pytest.mark.parametrize(
    ("error", "problem"),
    [
        (DeployError("name another file"), "name another file"),
        (SystemExit("host 'a': unknown field"), "host 'a': unknown field"),
        (SystemExit(1), "it failed; standard error says why"),
        (KeyboardInterrupt(), interrupt.SENTENCE),
        (TypeError("a mistake of ours"), "TypeError: a mistake of ours"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_whatever_ends_a_command_is_in_its_document(error: BaseException, problem: str, answer: Any) -> None:
    """An error leaves one document, with what was known until then, and goes on to whoever ends the program."""

    def command(options: argparse.Namespace) -> int:
        documents.tell(options, file="queen.db")
        raise error

    status, found, _ = answer(command)
    assert status != 0
    assert (found["status"], found["problem"], found["result"]) == (1, problem, {"file": "queen.db"})


def test_advice_is_told_to_both(answer: Any) -> None:
    """What a command knows to be done next is in the document instead of the general advice, and on standard error."""

    def command(options: argparse.Namespace) -> int:
        documents.advise(options, "run maintain again")
        return 1

    _, found, errors = answer(command, LINES[1])
    assert (found["advice"], errors) == ("run maintain again", "run maintain again\n")


def test_without_the_option_a_person_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines are printed and facts left out."""
    documents.tell(argparse.Namespace(document=False), "one", "two", advice="two", hosts=[])
    assert capsys.readouterr().out == "one\ntwo\n"


COMMANDS = [
    name
    for action in cli.parser()._actions
    if isinstance(action, argparse._SubParsersAction)
    for name in action.choices
]


@pytest.mark.parametrize("command", COMMANDS)
def test_words_that_nobody_can_read_get_a_document(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong command line that asks for JSON gets it, and the same sentence as without."""
    with pytest.raises(SystemExit) as ended:
        cli.main([command, "--json", "--colour", "red"])
    found = json.loads(capsys.readouterr().out)
    assert (list(found), found["command"], found["status"]) == (FIELDS, command, 1)
    assert found["problem"] == ended.value.code


UNREACHED = """
from rbee_deploy.inventory import fleet, host
queen, hives = fleet(
    "f", hosts=[host("q", address="127.0.0.1", ssh_port=1, queen=True, hive=True)],
    secrets_dir={folder!r}, client_endpoint="plain-http",
)
"""

WORDS = {
    "apply": [],
    "plan": [],
    "check": [],
    "preseed": [],
    "rollback": [],
    "status": [],
    "audit": [],
    "adopt": ["q"],
    "lock": ["--freeze", "no deploys"],
    "maintain": ["q"],
    "rotate": ["api-key"],
    "backup": ["-o", "new.db"],
    "purge": ["q", "--yes"],
}


def typed(folder: Path, *words: str, text: str = UNREACHED) -> "subprocess.CompletedProcess[str]":
    """Type a command on an inventory that prints something, and whose only host does not answer."""
    inventory = folder / "inventory.py"
    inventory.write_text(f"print('hello')\n{text.format(folder=str(folder / 'secrets'))}")
    program = str(Path(sys.executable).with_name("rbee-deploy"))
    line = [program, *words, "-i", str(inventory)]
    return subprocess.run(
        line, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", WORDS)
def test_a_host_that_does_not_answer_is_in_the_document(command: str, tmp_path: Path) -> None:
    """Standard output parses, names the host and what to do there, and says no less than standard error."""
    done = typed(tmp_path, command, *WORDS[command], "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, list(found), found["command"], found["status"]) == (1, FIELDS, command, 1)
    (line,) = found["stages"]
    assert (line["host"], line["stage"], line["verdict"]) == ("q", "connect", "failed")
    assert line["notes"][0] in done.stderr
    assert found["problem"]
    assert "Traceback" not in done.stderr


REFUSED = [
    ("maintain", ["r"], "has no host r; it has q"),
    ("rotate", ["certificates", "--revoke-old"], "--revoke-old goes with api-key"),
    ("backup", ["-o", "inventory.py"], "inventory.py exists; name another file"),
    ("restore", ["none.db"], "cannot read none.db"),
    ("purge", ["q"], "nothing was removed; --yes does not ask"),
    ("rollback", ["--limit", "nobody"], "is called 'nobody'; it has all, hives, inventory, queen, q"),
    ("lock", ["--limit", "q", "--limit", ""], "is called ''; it has"),
    ("apply", ["--limit", "qeen"], "is called 'qeen'; did you mean 'queen'"),
    ("bundle", ["-o", "new", "--target", "slackware"], "'slackware' in the target"),
    ("backup", ["-o", "no/where.db"], "there is no folder"),
    ("lock", ["--freeze", " "], "--freeze needs a reason"),
    ("audit", ["-n", "0"], "-n 0: the newest so many"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("command", "words", "sentence"), REFUSED)
def test_a_refusal_is_a_document(command: str, words: list[str], sentence: str, tmp_path: Path) -> None:
    """The sentence that ends the command is its problem, and the last line of standard error as ever."""
    done = typed(tmp_path, command, *words, "--json")
    found = json.loads(done.stdout)
    assert (done.returncode, list(found), found["status"]) == (1, FIELDS, 1)
    assert sentence in found["problem"]
    assert done.stderr.splitlines()[-1] == found["problem"]


@pytest.mark.slow
def test_the_version_is_told() -> None:
    """It needs no inventory."""
    done = subprocess.run(
        [str(Path(sys.executable).with_name("rbee-deploy")), "--version"], capture_output=True, text=True, check=True
    )
    assert (done.stdout, done.stderr) == (f"rbee {__version__}\n", "")


@pytest.mark.slow
def test_what_needs_no_host_has_no_stages(tmp_path: Path) -> None:
    """The first key's place is a fact of the document, the key itself only where it is asked for."""
    found = [json.loads(typed(tmp_path, "api-key", "--json", *words).stdout) for words in ([], ["--show"])]
    file = tmp_path / "secrets" / "api-key"
    assert [each["result"] for each in found] == [
        {"file": str(file)},
        {"file": str(file), "key": file.read_text().strip()},
    ]
    assert [each["stages"] for each in found] == [[], []]


@pytest.mark.slow
def test_a_wrong_inventory_is_a_document(tmp_path: Path) -> None:
    """What is wrong with the file stands in the document, though it ends the program by itself."""
    text = "from rbee_deploy.inventory import fleet, host\nqueen, hives = fleet(hosts=[host('a', quen=True)])\n"
    done = typed(tmp_path, "lock", "--json", text=text)
    found = json.loads(done.stdout)
    assert (done.returncode, list(found), found["stages"]) == (1, FIELDS, [])
    assert found["problem"].startswith("host 'a': unknown field 'quen'")
