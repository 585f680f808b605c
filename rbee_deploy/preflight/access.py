"""Whether the host lets the deployer in: SSH and root."""

import shlex
from collections.abc import Iterator

from rbee_deploy.preflight.checks import Case, Check, Finding, Problem
from rbee_deploy.site import Host

DEFAULT_PORT = 22
_SUDO_FIX = "allow it in sudoers, or write sudo_password=secret_env('…') if sudo asks for a password"


def unreachable(host: Host, reason: str) -> Problem:
    """Return the problem of a host that SSH cannot enter; `reason` is what the connector said."""
    where = f"{host.ssh_address} port {host.ssh_port}"
    cause = f"cannot connect to {where} by SSH ({reason})"
    return Problem(host.name, cause, _ssh_fix(host, reason.lower()), check=SSH.id)


def _ssh_fix(host: Host, reason: str) -> str:
    login = _login(host)
    if "no host key" in reason or ("known_hosts" in reason and "does not match" not in reason):
        return f"run {login} once to accept its host key, or write ssh_host_keys='accept-new'"
    if "does not match" in reason or "host key" in reason:
        return f"its host key changed: make sure that it is your host, then run {_forget(host)}"
    if "private key" in reason:
        return "correct ssh_key or its passphrase"
    if "auth" in reason:
        return f"correct ssh_user or ssh_key, and make sure that {login} logs in without a password"
    if "resolve" in reason:
        return "correct its address in the inventory"
    return f"turn it on, or correct its address or ssh_port, and make sure that {login} works"


def _login(host: Host) -> str:
    """Return the command that logs in as the deployer does."""
    options = {
        "-p": str(host.ssh_port),
        "-F": host.ssh_config_file,
        "-i": host.ssh_key,
        "-o": host.ssh_known_hosts_file and f"UserKnownHostsFile={host.ssh_known_hosts_file}",
    }
    words = [word for option, value in options.items() if value for word in (option, value)]
    return shlex.join(("ssh", *words, f"{host.ssh_user}@{host.ssh_address}" if host.ssh_user else host.ssh_address))


def _forget(host: Host) -> str:
    """Return the command that removes a host's key from the file of its own, else from the user's.

    Where its SSH configuration names another host or file, a person sees in it what to put there instead.
    """
    name = host.ssh_address if host.ssh_port == DEFAULT_PORT else f"[{host.ssh_address}]:{host.ssh_port}"
    file = ("-f", host.ssh_known_hosts_file) if host.ssh_known_hosts_file else ()
    return shlex.join(("ssh-keygen", *file, "-R", name))


def _nothing_more(_case: Case) -> Iterator[Finding]:
    """Find nothing: a host that speaks was reached."""
    return iter(())


def _root_is_given(case: Case) -> Iterator[Finding]:
    user = case.host.ssh_user or "the SSH user"
    password = "correct its sudo_password" if case.host.sudo_password is not None else _SUDO_FIX
    sentences = {
        "missing": ("sudo is not installed", "install sudo, or write ssh_user='root'"),
        "refused": (f"sudo refused {user}", password),
    }
    if case.facts.sudo != "ok":
        silent = ("it answered nothing as root", f"make sure that {user} may run sudo sh there")
        yield Finding(*sentences.get(case.facts.sudo, silent))


SSH = Check(
    id="ssh-login",
    title="SSH lets the deployer in",
    looks_at="what the SSH connector met on the way to the host",
    fails_when="the name does not resolve, nothing answers, the host key is another one, or the login is refused",
    why="everything that a deploy does on a host goes through this one connection",
    fix="what the sentence says of the reason; `ssh -p PORT USER@ADDRESS` has to log in without a question",
    find=_nothing_more,
)

ROOT = Check(
    id="root-access",
    title="The SSH user is or becomes root",
    looks_at="what `sudo` says to the login user; a login as root needs none",
    fails_when="sudo is missing, refuses the user or the password, or gives no shell",
    why="users, units and files under `/opt/rbee` and `/etc/rbee` are root's to make",
    fix="allow the user in sudoers, give `sudo_password`, or log in as root",
    find=_root_is_given,
    gate=True,
)
