"""From a spec file or options to what a worker shall serve."""

from pathlib import Path

import msgspec
import pytest

from rbee_runtime import __version__
from rbee_runtime.errors import ConfigError
from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.worker.launch import link_of, parse_arguments
from tests.unit.worker.serving import fake_launch, write_spec


def read(path: Path, launch: WorkerLaunch, environment: dict[str, str] | None = None) -> WorkerLaunch:
    return parse_arguments(["--spec", str(write_spec(path, launch))], environment or {})


def test_a_spec_file_is_taken_as_it_is(tmp_path: Path) -> None:
    """What the hive wrote is what is launched."""
    assert read(tmp_path / "spec", fake_launch()) == fake_launch()


def test_credentials_come_from_the_service_manager(tmp_path: Path) -> None:
    """`$CREDENTIALS_DIRECTORY` in tls_dir is the folder that systemd made for this unit."""
    launch = msgspec.structs.replace(fake_launch(), tls_dir="$CREDENTIALS_DIRECTORY", token="", fleet="home")
    link = link_of(read(tmp_path / "spec", launch, {"CREDENTIALS_DIRECTORY": "/run/credentials/x"}))
    assert (link.directory, link.fleet, link.role) == (Path("/run/credentials/x"), "home", "worker")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read the worker spec .*: No such file"),
        (b"{", "is damaged: "),
        (b"\xff", "is damaged: "),
        (b'{"worker": 5}', r"is damaged: .*\$.worker"),
        (msgspec.json.encode(msgspec.structs.replace(fake_launch(), token="")), "neither tls_dir nor token"),
        (
            msgspec.json.encode(msgspec.structs.replace(fake_launch(), tls_dir="$CREDENTIALS_DIRECTORY")),
            "CREDENTIALS_DIRECTORY is not set",
        ),
    ],
)
def test_a_spec_that_cannot_be_used_gets_one_sentence(tmp_path: Path, content: bytes | None, message: str) -> None:
    """Absent, damaged or unprotected specs are refused with the file's name."""
    path = tmp_path / "spec"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        parse_arguments(["--spec", str(path)], {})


LEFT_OPEN = msgspec.structs.replace(fake_launch(), tls_dir="", token="$RBEE_WORKER_TOKEN")
SECRET = "a-token-of-some-length"


def test_the_token_of_callers_is_not_in_the_file(tmp_path: Path) -> None:
    """Where the spec leaves it open, whoever starts the worker gives it by a variable or by a file."""
    file = tmp_path / "token"
    file.write_text(f"{SECRET}\n")
    for environment in ({"RBEE_WORKER_TOKEN": SECRET}, {"RBEE_WORKER_TOKEN_FILE": str(file)}):
        assert link_of(read(tmp_path / "spec", LEFT_OPEN, environment)).token == SECRET


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({}, "needs a token that its callers send as x-rbee-token: set RBEE_WORKER_TOKEN, or RBEE_WORKER_TOKEN_FILE"),
        ({"RBEE_WORKER_TOKEN": "short"}, "16 or more printable ASCII characters"),
        ({"RBEE_WORKER_TOKEN": "ü" * 16}, "16 or more printable ASCII characters"),
        ({"RBEE_WORKER_TOKEN_FILE": "/nowhere/token"}, r"cannot read the token in /nowhere/token .*: No such file"),
        ({"RBEE_WORKER_TOKEN_FILE": "FILE"}, "it has other characters than ASCII"),
    ],
)
def test_without_a_token_nothing_is_served(tmp_path: Path, environment: dict[str, str], message: str) -> None:
    """A worker that anybody may call does not start, and says what to set."""
    file = tmp_path / "token"
    file.write_bytes(b"\xff" * 20)
    given = {name: value.replace("FILE", str(file)) for name, value in environment.items()}
    with pytest.raises(ConfigError, match=message):
        read(tmp_path / "spec", LEFT_OPEN, given)


def test_a_model_is_served_by_hand() -> None:
    """Options make a worker on loopback, named after its file, with a random token."""
    arguments = ["--model", "/models/Small-Q4.gguf", "--context", "512", "--port", "9001", "--option", "threads=2"]
    launch, other = parse_arguments(arguments, {}), parse_arguments(arguments, {})
    assert (launch.worker.model, launch.worker.engine, launch.worker.context) == ("Small-Q4", "llama-cpp", 512)
    assert (launch.host, launch.port, launch.model_path) == ("127.0.0.1", 9001, "/models/Small-Q4.gguf")
    assert launch.worker.options == {"threads": "2"}
    assert len(launch.token) >= 24
    assert launch.token != other.token


def test_a_fake_model_has_no_other_engine() -> None:
    """A name beside it that nobody would run is no secret."""
    with pytest.raises(ConfigError, match="--engine is vlm: a fake: model is run by engine fake alone"):
        parse_arguments(["--model", "fake:tokens=5", "--engine", "vlm", "--token", "t"], {})
    assert parse_arguments(["--model", "fake:tokens=5", "--engine", "fake"], {}).worker.engine == "fake"


def test_a_fake_model_is_served_by_hand() -> None:
    """`--model fake:…` needs no file."""
    launch = parse_arguments(["--model", "fake:slots=2,tokens=5", "--token", "t"], {})
    assert (launch.worker.engine, launch.worker.options, launch.model_path) == (
        "fake",
        {"slots": "2", "tokens": "5"},
        "",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give --spec FILE, or --model PATH"),
        (["--modle", "x"], "there is no option --modle; did you mean --model; see rbee-worker --help"),
        (["--model", "x", "--port", "many"], "argument --port: invalid int value: 'many'"),
        (["--model", "fake:slot=1"], "did you mean 'slots'"),
        (["--model", "x", "--option", "threads"], "option 'threads' is not of the form key=value"),
        (["--model", "x", "--name", "../x"], "model name '../x' is not allowed"),
    ],
)
def test_wrong_options_get_one_sentence(arguments: list[str], message: str) -> None:
    """A wrong command line is named, never a traceback."""
    with pytest.raises(ConfigError, match=message):
        parse_arguments(arguments, {})


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    """As the other programs do."""
    with pytest.raises(SystemExit, match="0"):
        parse_arguments(["--version"], {})
    assert capsys.readouterr().out == f"rbee {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--slots", "0"], "--slots is 0: it must be a whole number from 1 to 512"),
        (["--slots", "-1"], "--slots is -1"),
        (["--context", "0"], "--context is 0: it must be a whole number from 64 to 4194304"),
        (["--context", "-5"], "--context is -5"),
    ],
)
def test_numbers_by_hand_have_the_inventory_s_bounds(arguments: list[str], said: str) -> None:
    """What no worker could serve is refused before anything is listened on."""
    with pytest.raises(ConfigError, match=said):
        parse_arguments(["--model", "/x.gguf", *arguments], {})
