"""Hosts as units of this machine, where systemd is its PID 1: it gives each a cgroup of its own."""

from pathlib import Path

from tests.lab.commands import output, succeeds


def booted_by_systemd() -> bool:
    """Say whether this machine's PID 1 is systemd."""
    return Path("/run/systemd/system").is_dir()


def start(machine: str, keeper: list[str], log: Path) -> None:
    """Run a host's keeper as a unit that is forgotten when it has ended."""
    succeeds(("systemctl", "reset-failed", machine))
    settings = ("Delegate=yes", "KillMode=mixed", "TasksMax=infinity", f"StandardOutput=append:{log}")
    options = [f"--property={setting}" for setting in (*settings, f"StandardError=append:{log}")]
    fixed = (f"--unit={machine}", "--slice=machine.slice", "--service-type=exec", "--collect")
    output(("systemd-run", *fixed, *options, *keeper))


def forget(pattern: str) -> None:
    """Wait until systemd knows that hosts have ended: their processes are gone first, and a stop job ends after it."""
    if booted_by_systemd():
        succeeds(("systemctl", "stop", f"{pattern}.service"))
