"""The report's own lines: aligned, one per host and stage, with what failed and what to do."""

import logging
import signal
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_deploy import connection, interrupt, report
from rbee_deploy.facts.memo import COMMANDS
from rbee_deploy.operations.root import REFUSALS, WARNINGS
from rbee_deploy.recorder import Recorder


def meta(*, failed: bool = False, changed: bool = False, output: tuple[str, ...] = ()) -> Any:
    """Return how an operation ended."""
    return SimpleNamespace(
        is_complete=lambda: True,
        did_error=lambda: failed,
        did_change=lambda: changed,
        _combined_output=SimpleNamespace(output_lines=list(output)),
    )


def run(operations: dict[str, Any], **data: Any) -> list[str]:
    """Return the report of a run with one host called box1."""
    host = SimpleNamespace(name="box1", connector_data={COMMANDS: 3, **data})
    recorder = Recorder()
    recorder.seconds = {("box1", name): 0.26 for name in operations}
    state = SimpleNamespace(
        rbee_recorder=recorder,
        is_executing=True,
        inventory=[host],
        is_host_in_limit=lambda _: True,
        activated_hosts={"box1": host}.values(),
        get_op_order=lambda: list(operations),
        op_meta={name: SimpleNamespace(names={name}) for name in operations},
        ops=_ByHost(box1={name: _data(name, value) for name, value in operations.items()}),
    )
    return report.text(state)


def _data(name: str, value: Any) -> Any:
    return SimpleNamespace(operation_meta=value, global_arguments={"_ignore_errors": "may fail" in name})


class _ByHost(dict[str, Any]):
    """Operations by host, for hosts that are only names."""

    def __getitem__(self, host: Any) -> Any:
        return super().__getitem__(host.name)


def test_steps_of_a_stage_are_one_line() -> None:
    """Times add up, and one change makes the stage changed."""
    lines = run({"setup: a": meta(), "setup: b": meta(changed=True), "verify: c": meta()})
    assert lines == [
        "",
        "box1  setup      0.5 s  changed",
        "box1  verify     0.3 s  unchanged",
        "box1  3 remote commands",
    ]


def test_a_refusal_is_the_sentence_alone() -> None:
    """What a check says needs no advice on top."""
    lines = run({"preflight: a": meta(failed=True)}, **{REFUSALS: ["it has no Python; install it"]})
    assert lines[1] == "box1  preflight     0.3 s  failed     it has no Python; install it"


def test_what_a_host_has_a_fallback_for_is_no_failure() -> None:
    """It says what went wrong, and what to do is said where the host falls back."""
    lines = run({"activate hives: may fail": meta(failed=True, output=("rbee-hive.service failed",))})
    assert lines[1:-1] == ["box1  activate hives     0.3 s  fell back  rbee-hive.service failed"]


def test_what_an_activation_warns_of_stands_beside_its_verdict() -> None:
    """It went well, and what could not be done is said all the same; other output of it is not."""
    output = ("restarted", "warning: podman does not answer: its images stay")
    lines = run({"activate hives: a": meta(changed=True, output=output)})
    assert lines[1:-1] == ["box1  activate hives     0.3 s  changed    podman does not answer: its images stay"]


@pytest.mark.parametrize("count", [1, 25])
def test_a_failed_command_shows_its_last_lines_and_what_to_do(count: int) -> None:
    """At most a sentence, ten lines of the host's own words and what became of it, aligned, then the next command."""
    said = tuple(f"line {number}" for number in range(count))
    lines = run({"activate hives: a": meta(failed=True, output=said)})
    shown = [line.strip() for line in lines[2:-1]]
    assert f"line {count - 1}" in lines[1] + " ".join(shown)
    assert len(lines) <= 1 + 12 + 1 + 1
    assert "journalctl" in shown[-1]
    assert len({len(line) - len(line.lstrip()) for line in lines[2:-1]}) == 1


def test_a_sentence_that_says_what_to_do_is_the_last() -> None:
    """Whoever reads that deploys are frozen, and how that ends, is not told to put that right and to read a journal."""
    said = ("deploys are frozen here by ann@desk since noon: audit; rbee-deploy lock --release -i fleet.py ends that",)
    lines = run({"lease: take it": meta(failed=True, output=said)})
    assert lines[1:] == [f"box1  lease     0.3 s  failed     {said[0]}", "box1  3 remote commands"]


@pytest.mark.parametrize("output", [(), ("", "  ")])
def test_a_program_that_dies_without_a_word_is_called_that(output: tuple[str, ...]) -> None:
    """No step's own name stands for the reason; what it may have been and what to do are one sentence."""
    (line, *rest) = run({"activate hives: turn 1": meta(failed=True, output=output)})[1:]
    head, _, said = line.partition("failed     ")
    assert head.startswith("box1  activate hives")
    assert said.startswith("the program on box1 ended without a word (killed, out of memory, or the connection broke?)")
    assert "run the same command again" in said
    assert rest == ["box1  3 remote commands"]


def test_what_is_worth_saying_is_said() -> None:
    """A hint of preflight stands beside its stage and fails nothing."""
    lines = run({"preflight: a": meta()}, **{WARNINGS: ["it has little memory; restrict a model"]})
    assert lines[1] == "box1  preflight     0.3 s  unchanged  it has little memory; restrict a model"


def test_a_stage_that_does_not_concern_the_host_has_no_line() -> None:
    """A GPU host is not told about the queen."""
    lines = run({"activate queen: a": meta(), "verify: b": meta()}, **{report.ELSEWHERE: {"activate queen"}})
    assert not any("queen" in line for line in lines)


@pytest.fixture
def sigint() -> Iterator[None]:
    """Leave the answer to Ctrl-C as it was."""
    before = signal.getsignal(signal.SIGINT)
    yield
    signal.signal(signal.SIGINT, before)


def unreached() -> Any:
    """Return the state of a run with one host that was not reached."""
    host = SimpleNamespace(name="box1", connector_data={})
    return SimpleNamespace(
        inventory=[host],
        is_host_in_limit=lambda _: True,
        activated_hosts={}.values(),
        op_meta={},
        is_executing=False,
        initialised=True,
    )


@pytest.mark.usefixtures("sigint")
def test_a_run_cut_off_while_it_connects_blames_no_host() -> None:
    """Hosts that were not reached yet are not diagnosed: the sentence would tell a person to turn them on."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    assert report.text(unreached()) == ["", "box1  connect  cut off       nothing was done there"]


@pytest.mark.usefixtures("sigint")
def test_ctrl_c_while_reasons_are_looked_for_still_ends_with_the_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The look takes seconds, and may run where nothing catches an exit; the lines come without the reasons."""
    monkeypatch.setattr(connection, "sentences", lambda _: signal.raise_signal(signal.SIGINT))
    interrupt.arm()
    report.show(unreached())
    assert capsys.readouterr().err.splitlines() == [
        interrupt.SENTENCE,
        "",
        "box1  connect  cut off       nothing was done there",
    ]


def test_unreached_hosts_are_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each stage prints what is over; none of them waits for a host that is off again."""
    looks: list[list[str]] = []

    def sentences(hosts: Iterable[Any]) -> dict[str, str]:
        looks.append([host.name for host in hosts])
        return dict.fromkeys(looks[-1], "turn it on")

    monkeypatch.setattr(connection, "sentences", sentences)
    state = unreached()
    assert report.text(state) == report.text(state) == ["", "box1  connect  failed        turn it on"]
    assert looks == [["box1"]]


@pytest.mark.parametrize(
    ("level", "module", "words", "is_kept"),
    [
        (logging.WARNING, "client", ("known_hosts", ValueError("line 3")), True),
        (logging.WARNING, "client", ("known_hosts", FileNotFoundError(2, "No such file")), False),
        (logging.WARNING, "operations", (), False),
        (logging.INFO, "client", (), False),
    ],
)
def test_of_pyinfras_own_account_warnings_are_kept(
    level: int, module: str, words: tuple[object, ...], is_kept: bool
) -> None:
    """What the report says better is left out, and that there is no file of known hosts yet."""
    record = logging.LogRecord("pyinfra", level, f"/x/{module}.py", 1, "%s" * len(words), words, None)
    assert report._is_no_narration(record) is is_kept


@pytest.mark.parametrize("words", [["none.py", "deploy.py", "--yes"], ["--limit", "a", "folder/none.py", "deploy.py"]])
def test_a_file_that_is_not_there_ends_the_run(words: list[str]) -> None:
    """With pyinfra alone it would end well, with no host."""
    with pytest.raises(SystemExit, match=r"there is no file (folder/)?none\.py; see what is in"):
        report.demand_files(words)


@pytest.mark.parametrize(
    "words",
    [[__file__, "--yes"], ["a,b", "exec", "--", "python3", "/srv/none.py"], ["a", "files.put", "dest=/none.py"]],
)
def test_what_is_no_file_of_ours_is_not_looked_for(words: list[str]) -> None:
    """Such as a program on the hosts."""
    report.demand_files(words)
