"""--json of every command: one document on standard output, also of a run that failed or was refused.

    {"command": "lock", "status": 0, "problem": null, "advice": null, "stages": […], "result": {…}}

`stages` are the lines of the report, `result` what the command prints for a person otherwise.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from typing import Any

from rbee_deploy import interrupt, report
from rbee_deploy.cli import running
from rbee_deploy.cli.arguments import Commands
from rbee_deploy.errors import DeployError
from rbee_runtime.errors import ConfigError

AGAIN = "put that right and run the same command again"
"""What to do about a stage that failed, where nobody knows better."""

_BAD = {report.Verdict.FAILED, report.Verdict.CUT_OFF}


def register(commands: Commands) -> None:
    """Give every command its option."""
    for name, added in commands.choices.items():
        added.add_argument("--json", action="store_true", dest="document", help="pure JSON on standard output")
        added.set_defaults(command=name)


def tell(options: argparse.Namespace, *lines: str, advice: str = "", **facts: Any) -> None:
    """Print lines for a person, or keep the same as facts for the document; `advice` is what of it is to be done."""
    if options.document:
        options.told.update(facts)
        options.advice += [advice] if advice else []
        return
    for line in lines:
        print(line)


def advise(options: argparse.Namespace, text: str) -> None:
    """Say what to do after a run that failed, to a person and in the document."""
    print(text, file=sys.stderr)
    if options.document:
        options.advice.append(text)


def conclude(options: argparse.Namespace, *, problem: str, advice: str) -> None:
    """Say in the document what was found wrong and what to do; a person has read it in the report."""
    if options.document:
        options.problem = problem
        options.advice.append(advice)


def answered(options: argparse.Namespace, run: Callable[[argparse.Namespace], int]) -> int:
    """Run a command and print its document however it ends; what it prints otherwise goes to standard error."""
    options.told, options.advice, options.problem = {}, [], ""
    try:
        with redirect_stdout(sys.stderr):
            status = run(options)
    except BaseException as error:
        _print(options, 1, _sentence(error))
        raise
    _print(options, status, "")
    return status


def refused(words: Sequence[str], error: Exception) -> None:
    """Print the document of a command line that nobody can read, if it asks for one."""
    if "--json" in words:
        print(json.dumps(document(words[0], 1, str(error))))


def document(command: str, status: int, problem: str = "", advice: str = "", **more: Any) -> dict[str, Any]:
    """Return a document; `problem` and `advice` are null where there is nothing to say."""
    return {
        "command": command,
        "status": status,
        "problem": problem or None,
        "advice": advice or None,
        "stages": [],
        "result": {},
        **more,
    }


def stage(line: report.Line) -> dict[str, Any]:
    """Return a line of the report as data."""
    seconds = None if line.seconds is None else round(line.seconds, 1)
    return {
        "host": line.host,
        "stage": line.stage,
        "seconds": seconds,
        "verdict": str(line.verdict),
        "notes": line.notes,
    }


def failures(lines: Sequence[report.Line]) -> Iterator[str]:
    """Yield where something went wrong, and what."""
    for line in lines:
        if line.verdict in _BAD:
            yield f"{line.host}: {line.stage} {line.verdict}{': ' if line.notes else ''}{''.join(line.notes[:1])}"


def _needs_advice(lines: Sequence[report.Line]) -> bool:
    """Say whether the first word of a stage that went wrong, which is in the problem, does not say what to do."""
    first = (line.notes[0] if line.notes else "" for line in lines if line.verdict in _BAD)
    return not all(report.says_what_to_do(sentence) for sentence in first)


def _print(options: argparse.Namespace, status: int, sentence: str) -> None:
    lines = report.lines(running.state())
    failed = "; ".join(failures(lines)) if status else ""
    if interrupt.happened():
        # What was found out by then is not whole, and says of some hosts that they have nothing.
        sentence, options.told, failed = interrupt.means, {}, ""
    problem = sentence or options.problem or failed or ("it failed; standard error says why" if status else "")
    advice = "; ".join(options.advice) or (AGAIN if failed and _needs_advice(lines) else "")
    stages = [stage(line) for line in lines]
    found = document(options.command, status, problem, advice, stages=stages, result=options.told)
    print(json.dumps(found, default=str))


def _sentence(error: BaseException) -> str:
    if isinstance(error, DeployError | ConfigError):
        return str(error)
    if isinstance(error, KeyboardInterrupt):
        return interrupt.means
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, str) else ""
    return f"{type(error).__name__}: {error}"
