"""Have a host's activator take in a generation, and go over to it."""

import shlex
from collections.abc import Callable, Iterator, Sequence

from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation

from rbee_deploy import lease
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.facts.memo import observe
from rbee_deploy.generation import payload
from rbee_deploy.history import Step
from rbee_deploy.observed import Observed
from rbee_deploy.operations.later import now
from rbee_deploy.operations.lease import run_id
from rbee_deploy.operations.root import DIFFERENCES, as_root_command, refused
from rbee_deploy.render import OwnedFile
from rbee_runtime import ports


@operation()
def staged(
    wanted: Generation | Callable[[], Generation | None] | None,
    files: Sequence[OwnedFile] | Callable[[], Sequence[OwnedFile]],
) -> Iterator[StringCommand]:
    """Bring a generation with the content of its files; nothing that is in use changes."""
    generation = now(wanted)
    facts = observe(host)
    if generation is None or _is_complete(generation, facts):
        host.noop("the files are there")
        return
    yield as_root_command(activator(generation.release, "stage"), (payload(generation, now(files)),))


def _is_complete(generation: Generation, facts: Observed) -> bool:
    kept = facts.names("contents")
    return generation.id in facts.names("generations") and all(file.sha256 in kept for file in generation.files)


@operation()
def activated(
    wanted: Generation | Callable[[], Generation | None] | None,
    wrong: Callable[[], list[str]],
    blocked: str | Callable[[], str] = "",
) -> Iterator[StringCommand | FunctionCommand]:
    """Go over to a generation unless the host is as it says; `blocked` is why it must not be touched now."""
    generation = now(wanted)
    reasons = wrong() if generation is not None else []
    if generation is None or not reasons:
        host.noop("it is as it should be")
        return
    if reason := now(blocked):
        yield from refused([f"left as it is: {reason}"])
        return
    words = ("activate", generation.id, *told(_why(reasons)))
    yield as_root_command(apart(activator(generation.release, *words)))


@operation()
def rolled_back(
    step: Callable[[], Step | None], now: Callable[[], Step | None], blocked: Callable[[], str]
) -> Iterator[StringCommand | FunctionCommand]:
    """Go back to an earlier generation; `now` is what the host runs, whose activator knows the way."""
    target, current = step(), now()
    if target is None or current is None:
        host.noop("it stays as it is")
        return
    if reason := blocked():
        yield from refused([f"left as it is: {reason}"])
        return
    words = ("rollback", target.generation, *told(f"go back from {current.release}"))
    yield as_root_command(apart(activator(current.release, *words)))


@operation()
def taken_back(
    step: Callable[[], Step | None], now: Callable[[], Step | None], why: Callable[[], str]
) -> Iterator[StringCommand | FunctionCommand]:
    """Go back because the run failed elsewhere, and fail the host, for it is not what the inventory says."""
    target, current = step(), now()
    if target is None or current is None:
        host.noop("it stays as it is")
        return
    reason = why()
    words = ("rollback", target.generation, *told(f"take the run back: {reason}"))
    yield as_root_command(apart(activator(current.release, *words)))
    yield from refused([f"taken back to {_named(target, current)}: {reason}"])


def _named(target: Step, current: Step) -> str:
    """Return what a host goes back to, by what of it is another than now."""
    if target.release != current.release:
        return f"release {target.release}"
    return "its images of before" if target.images != current.images else "its files of before"


def told(why: str) -> tuple[str, ...]:
    """Return what goes into a host's records: who, why, in which run."""
    return ("--by", lease.operator(), "--why", why, "--run", run_id(host.state))


def _why(reasons: Sequence[str]) -> str:
    more = f" and {len(reasons) - 1} more" if len(reasons) > 1 else ""
    return f"{reasons[0]}{more}"


def activator(release: str, *words: str) -> str:
    """Return the command line of the activator that comes with a release."""
    return shlex.join((f"{ports.RELEASES}/{release}/bin/python", "-I", "-m", "rbee_deploy.activator", *words))


def apart(command: str) -> str:
    """Return the command that runs on when the connection does not: a unit of its own, waited for."""
    return f"systemd-run --quiet --wait --collect --pipe --service-type=exec -- {command}"


@operation()
def pruned(
    release: str | Callable[[], str], engines: Callable[[], list[str]], needed: Callable[[], bool]
) -> Iterator[StringCommand]:
    """Remove releases and engines that neither a generation to go back to nor a process uses."""
    wanted = now(release)
    if not wanted or not needed():
        host.noop("nothing is left over")
        return
    yield as_root_command(activator(wanted, "prune", "--", *engines()))


@operation()
def converged(wrong: Callable[[], list[str]], left: Callable[[], list[str]]) -> Iterator[FunctionCommand]:
    """Fail the host if anything is still not as it should be, or a person `left` there what we do not touch.

    Before a deploy that is no failure, but what a plan tells.
    """
    found = wrong()
    if not host.state.is_executing:
        host.connector_data[DIFFERENCES] = [*found, *left()]
    sentences = [*(f"{reason}; run the same command again" for reason in found), *left()]
    if sentences and host.state.is_executing:
        yield from refused(sentences)
    else:
        host.noop("the host is as it should be")
