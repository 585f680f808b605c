"""`rbee-keeper` from its arguments to what it prints."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rbee_runtime import __version__
from rbee_runtime.keeper.cli import run
from tests.unit.keeper.stand_in import KEY, TABLES, StandIn, chat_stream, serving

Keeper = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    """Serve one stand-in for all tests of this file."""
    with serving(StandIn()) as stand_in:
        yield stand_in


@pytest.fixture
def queen(server: StandIn, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> StandIn:
    """Give the stand-in with no calls yet, and the environment that leads to it."""
    server.calls.clear()
    server.bodies.clear()
    server.raw_paths.clear()
    (tmp_path / "key").write_text(f"{KEY}\n")
    for name in ("RBEE_API_KEY", "RBEE_CA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RBEE_URL", server.url)
    monkeypatch.setenv("RBEE_API_KEY_FILE", str(tmp_path / "key"))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    return server


@pytest.fixture
def keeper(queen: StandIn, capsys: pytest.CaptureFixture[str]) -> Keeper:
    """Run the command line; return status, stdout and stderr, which never hold the key."""

    def call(*arguments: str) -> tuple[int, str, str]:
        status = run(list(arguments))
        said = capsys.readouterr()
        assert KEY not in said.out + said.err
        return status, said.out, said.err

    return call


def test_status_shows_the_whole_fleet(keeper: Keeper) -> None:
    """One command shows queen, hives, workers and models."""
    status, out, _ = keeper("status")
    assert status == 0
    for word in ("ok, version 9.9", "gpu1", "2 s ago", "toy-1", "1/4", "1/2", "gpu2: too small"):
        assert word in out


@pytest.mark.parametrize("kind", ["hives", "workers", "models"])
def test_json_is_what_the_queen_said(keeper: Keeper, kind: str) -> None:
    """`--json` gives the same facts for programs."""
    assert json.loads(keeper(kind, "--json")[1]) == TABLES[kind]
    assert json.loads(keeper("status", "--json")[1])[kind] == TABLES[kind]


def test_a_hive_is_drained_and_taken_back(keeper: Keeper, queen: StandIn) -> None:
    """Both commands reach the hive that was named, whatever its name holds."""
    assert keeper("drain", "gpu1")[0] == 0
    assert keeper("undrain", "gpu/2")[0] == 0
    assert queen.calls == ["POST /api/v1/hives/gpu1/drain", "POST /api/v1/hives/gpu/2/undrain"]


def test_chat_prints_the_answer_and_its_speed(keeper: Keeper, queen: StandIn) -> None:
    """The answer is on stdout, the speed on stderr, and pings are no text."""
    queen.stream = chat_stream("sweet ", "honey", tokens=7)
    status, out, err = keeper("chat", "toy", "hi")
    assert (status, out) == (0, "sweet honey\n")
    assert err.startswith("[toy: 7 tokens, ")
    assert queen.bodies[-1]["messages"] == [{"role": "user", "content": "hi"}]


def test_chat_takes_a_piped_prompt_and_a_ready_model(
    keeper: Keeper, queen: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a model the first ready one answers; a pipe is the prompt."""
    queen.stream = chat_stream("ok")
    monkeypatch.setattr("sys.stdin", io.StringIO("from a pipe\n"))
    assert keeper("chat")[:2] == (0, "ok\n")
    assert queen.bodies[-1]["model"] == "toy"
    assert queen.bodies[-1]["messages"] == [{"role": "user", "content": "from a pipe"}]


def test_a_piped_table_has_a_line_for_each_row(keeper: Keeper, queen: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a long reason nor a narrow terminal makes two of one, and no line ends in blanks."""
    long = [{**TABLES["models"][0], "missing": ["gpu2:\ntoo small " * 100]}, TABLES["models"][0]]
    monkeypatch.setitem(TABLES, "models", long)
    lines = keeper("models")[1].splitlines()
    assert [line.split()[0] for line in lines if line.strip("─━ ")] == ["MODEL", "toy", "toy"]
    assert all(line == line.rstrip() for line in lines)


def test_a_model_cannot_steer_the_terminal(keeper: Keeper, queen: StandIn) -> None:
    """Escape sequences in an answer lose their escape character."""
    queen.stream = chat_stream("a\x1b]0;owned\x07b\nc\u202e")
    assert keeper("chat", "toy", "hi")[1] == "a]0;ownedb\nc\n"


@pytest.mark.parametrize(
    ("status", "stream", "message"),
    [
        (1, chat_stream("a", end='data: {"error": {"message": "the worker died"}}\n\n'), "broke off: the worker died"),
        (1, 'data: {"error": {"message": "toy is not ready yet"}}\n\n', "there is no answer: toy is not ready yet"),
        (1, chat_stream("a", end=""), "broke off: the connection ended before the answer did"),
        (3, "data: {nonsense\n\n", "is not a queen"),
    ],
)
def test_an_answer_that_breaks_off_is_an_error(
    keeper: Keeper, queen: StandIn, status: int, stream: str, message: str
) -> None:
    """Half an answer never looks like a whole one."""
    queen.stream = stream
    ended, _, err = keeper("chat", "toy", "hi")
    assert ended == status
    assert message in err


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--foo"], "No such option: --foo (see rbee-keeper --help)"),
        (["keys", "--foo"], "No such option: --foo (see rbee-keeper keys --help)"),
        (["keys", "revoke"], "Missing argument 'ID' (see rbee-keeper keys revoke --help)"),
        (
            ["explain", "--model", "toy"],
            "--model is no option; type rbee-keeper explain MODEL (see rbee-keeper explain --help)",
        ),
        (
            ["keys", "revoke", "--id=x"],
            "--id is no option; type rbee-keeper keys revoke ID (see rbee-keeper keys revoke --help)",
        ),
    ],
)
def test_a_wrong_command_line_names_the_help_that_helps(keeper: Keeper, words: list[str], sentence: str) -> None:
    """Each command has a help of its own."""
    assert keeper(*words) == (2, "", f"rbee-keeper: {sentence}\n")


def test_https_to_a_queen_without_is_called_that(keeper: Keeper, queen: StandIn) -> None:
    """The words of the TLS library do not say which end is wrong."""
    url = queen.url.replace("http:", "https:")
    said = f"rbee-keeper: what answers at {url} does not speak TLS; write http://… in --url\n"
    assert keeper("--url", url, "hives") == (3, "", said)


@pytest.mark.parametrize(
    ("status", "arguments", "message"),
    [
        (2, ["statsu"], "No such command 'statsu'"),
        (2, ["keys"], "Missing command"),
        (2, ["drain"], "Missing argument 'HIVE'"),
        (2, ["hives", "--jsno"], "No such option: --jsno"),
        (1, ["drain", "gone"], "the queen refused: there is no hive 'gone'"),
        (1, ["--api-key", "wrong", "hives"], "does not accept the API key; check --api-key-file"),
        (1, ["--api-key", "", "--api-key-file", "/dev/null", "hives"], "needs an API key; give --api-key-file or set"),
        (2, ["--api-key", "wröng", "hives"], "the API key holds characters that no key has"),
        (3, ["--url", "http://127.0.0.1:1", "hives"], "no queen at http://127.0.0.1:1: "),
        (2, ["--url", "queen", "hives"], "--url 'queen' is not an address"),
        (2, ["--url", "http://queen:99999", "hives"], "--url 'http://queen:99999' is not an address"),
        (2, ["--url", "http://queen:x", "hives"], "--url 'http://queen:x' is not an address"),
        (2, ["--url", "http://[::1", "hives"], "--url 'http://[::1' is not an address"),
        (2, ["--ca", "/gone", "hives"], "cannot use the certificates in /gone"),
        (2, ["--api-key-file", "/gone", "hives"], "cannot read the API key in /gone: No such file"),
    ],
)
def test_what_goes_wrong_is_one_sentence(keeper: Keeper, status: int, arguments: list[str], message: str) -> None:
    """Its status and one line on stderr, never a traceback."""
    ended, out, err = keeper(*arguments)
    assert (ended, out, err.count("\n")) == (status, "", 1)
    assert err.startswith("rbee-keeper: ")
    assert message in err


def test_a_key_file_that_is_typed_wins_over_the_environment(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong file is a mistake even where RBEE_API_KEY is right."""
    monkeypatch.setenv("RBEE_API_KEY", KEY)
    assert keeper("hives")[0] == 0
    assert "cannot read the API key in /gone" in keeper("--api-key-file", "/gone", "hives")[2]


def test_a_local_queens_key_is_found(keeper: Keeper, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For a queen on this machine the key that it left for its user is taken."""
    monkeypatch.delenv("RBEE_API_KEY_FILE")
    assert keeper("hives")[0] == 1
    (tmp_path / "rbee" / "queen").mkdir(parents=True)
    (tmp_path / "rbee" / "queen" / "api-key").write_text(f"{KEY}\n")
    assert keeper("hives")[0] == 0


def test_start_queen_becomes_the_queen(keeper: Keeper, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its options go on untouched, `--help` included."""
    started = list[list[str]]()
    monkeypatch.setattr(os, "execv", lambda _, arguments: started.append(arguments))
    options = ["--attached-hive", "--model", "a=file:/a.gguf", "--help"]
    assert keeper("start-queen", *options)[0] == 0
    assert started == [[sys.executable, "-m", "rbee_runtime.queen.main", *options]]


def test_help_does_not_wait_for_what_it_does_not_need() -> None:
    """Starting up imports no server."""
    probe = "import rbee_runtime.keeper.cli, sys; print(sorted({'fastapi', 'uvicorn', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=20)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("line", [["status"], ["events"], ["hives", "--json"], ["--help"]], ids=" ".join)
def test_a_full_disk_is_one_sentence(queen: StandIn, line: list[str]) -> None:
    """Output that cannot be written ends in status 1 and the system's reason."""
    command = [sys.executable, "-m", "rbee_runtime.keeper.main", *line]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, timeout=20)
    sentence = "cannot write to standard output: No space left on device; make room or name another place"
    assert (done.returncode, done.stderr) == (1, f"rbee-keeper: {sentence}\n")


@pytest.mark.parametrize(
    ("line", "path"),
    [
        (["drain", "../x"], "hives/..%2Fx/drain"),
        (["drain", ".."], "hives/%2E%2E/drain"),
        (["worker", "a?b"], "workers/a%3Fb"),
        (["keys", "revoke", "a#b"], "keys/a%23b"),
    ],
)
def test_a_name_is_one_part_of_the_path(keeper: Keeper, queen: StandIn, line: list[str], path: str) -> None:
    """No name leads to another call than the one that was typed."""
    keeper(*line)
    assert queen.raw_paths[-1] == f"/api/v1/{path}"


def test_a_name_with_a_slash_is_nothing_that_there_is(keeper: Keeper) -> None:
    """The queen knows no such call; the user asked for a hive."""
    status, _, err = keeper("drain", "../gone")
    assert (status, err) == (1, "rbee-keeper: the queen has no hive '../gone': no name holds a slash\n")


def test_the_version_is_told(keeper: Keeper) -> None:
    """As the other programs do."""
    assert keeper("--version") == (0, f"rbee {__version__}\n", "")
