"""Bring a role to its desired digest: switch the release, restart what is not there yet, wait until it is."""

import shlex
from collections.abc import Callable, Iterator

from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation

from rbee_deploy.drift import Role, role_drift
from rbee_deploy.facts.memo import observe
from rbee_deploy.observed import Observed
from rbee_deploy.operations.later import now
from rbee_deploy.operations.root import DIFFERENCES, as_root_command, refused
from rbee_runtime import ports

READY_SECONDS = 90
"""Longer than the units' own TimeoutStartSec of 60, so that systemd's verdict is in the journal lines that we show."""

LOG_LINES = 10


@operation()
def release_link(release: str | Callable[[], str]) -> Iterator[StringCommand]:
    """Point `current` at the release in one step; what runs keeps its real path."""
    wanted = now(release)
    target = str(ports.RELEASES / wanted) if wanted else ""
    if not wanted or observe(host).raw.get("current") == target:
        host.noop("the link is right")
        return
    yield as_root_command(switch(target))


def switch(target: str) -> str:
    """Return the script that replaces the link without a moment in which there is none."""
    draft = str(ports.PREFIX / ".current.new")
    link = (("rm", "-f", draft), ("ln", "-s", target, draft), ("mv", "-fT", draft, str(ports.CURRENT)))
    return " && ".join(shlex.join(words) for words in link)


@operation()
def running(
    role: Role | Callable[[], Role | None] | None, blocked: str | Callable[[], str] = ""
) -> Iterator[StringCommand | FunctionCommand]:
    """Restart a role unless it runs what it should; `blocked` is why it must not be touched now."""
    wanted = now(role)
    if wanted is None or not (wrong := role_drift(wanted, observe(host))):
        host.noop("it runs what it should")
        return
    if reason := now(blocked):
        yield from refused([f"{wanted.service} was left as it is ({wrong[0]}): {reason}"])
        return
    for socket in wanted.sockets:
        yield as_root_command(listen(socket, wanted, observe(host)))
    yield as_root_command(restart(wanted))


def listen(socket: str, role: Role, facts: Observed) -> str:
    """Return the script that makes a socket unit listen; a change of ports needs its service stopped."""
    if facts.unit(socket).active == "active" and not set(role.listens) <= facts.ports:
        return f"systemctl stop -- {shlex.quote(role.service)} && systemctl restart -- {shlex.quote(socket)}"
    return shlex.join(("systemctl", "start", "--", socket))


def restart(role: Role) -> str:
    """Return the script that restarts a service and waits until it is ready with the desired digest and release.

    Three automatic restarts after ours mean that it cannot start; the deadline needs no waiting then.
    """
    unit, file = shlex.quote(role.service), shlex.quote(role.running_file)
    digest, release = (
        shlex.quote(f'"{key}":"{value}"') for key, value in (("digest", role.digest), ("release", role.release))
    )
    lines = (
        "uptime() { cut -d. -f1 /proc/uptime; }",
        f"deadline=$(($(uptime) + {READY_SECONDS}))",
        f"systemctl reset-failed -- {unit} 2>/dev/null",
        f"timeout {READY_SECONDS} systemctl restart -- {unit} 2>/dev/null",
        'while [ "$(uptime)" -lt "$deadline" ]; do',
        f"  state=$(systemctl is-active -- {unit})",
        f"  text=$(cat -- {file} 2>/dev/null | tr -d ' \\n')",
        '  if [ "$state" = active ]; then case $text in',
        f"    *{digest}*) case $text in *{release}*) exit 0;; esac;;",
        "  esac; fi",
        f'  [ "$(systemctl show -p NRestarts --value -- {unit})" -lt 3 ] || break',
        "  sleep 0.2",
        "done",
        f'echo {unit} "did not become ready ($state); its last lines:" >&2',
        f"journalctl -u {unit} -n {LOG_LINES} --no-pager -o cat >&2",
        "exit 1",
    )
    return "\n".join(lines)


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
