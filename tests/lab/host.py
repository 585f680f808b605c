"""One throw-away host: real systemd as PID 1, real sshd, an address of its own."""

import json
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from tests.lab import entering, processes, tree, units
from tests.lab.commands import succeeds
from tests.lab.errors import LabError
from tests.lab.images import ensure_image
from tests.lab.network import link_exists, set_link
from tests.lab.nspawn import nspawn_argv, nspawn_environment
from tests.lab.places import image_cache
from tests.lab.processes import wait_for
from tests.lab.recipes import SSH_USER, SUDO_PASSWORD
from tests.lab.records import Bind, HostRecord
from tests.lab.uplink import carried_environment, package_folders

# A host boots in about a second here; a loaded two-core machine that boots five at once needs many more.
BOOT_S = 90.0
SHUTDOWN_S = 60.0
# The kernel takes a dead host's link away within milliseconds, or after tens of seconds while a peer still sends to it.
LINK_S = 0.5
RUN_S = 60.0
KEEPER = Path(__file__).with_name("keeper.py")
# systemd's own signals for an orderly poweroff and reboot of PID 1.
POWER_OFF = signal.SIGRTMIN + 4
REBOOT = signal.SIGRTMIN + 5
LOG_LINES = 10


class LabHost:
    """A handle on one host; the state is in the kernel and in the lab's record, so several handles agree."""

    ssh_user = SSH_USER
    sudo_password = SUDO_PASSWORD

    def __init__(
        self,
        directory: Path,
        bridge: str,
        record: HostRecord,
        *,
        note: Callable[[HostRecord], None],
        forget: Callable[["LabHost"], None],
    ) -> None:
        self.directory = directory
        self.record = record
        self._bridge = bridge
        self._note = note
        self._forget = forget

    def __repr__(self) -> str:
        return f"<LabHost {self.name} {self.address} of {self._bridge}>"

    @property
    def name(self) -> str:
        """The host name, inside and in the inventory."""
        return self.record.name

    @property
    def address(self) -> str:
        """The IPv4 address on the lab's bridge."""
        return self.record.address

    @property
    def is_running(self) -> bool:
        """Whether the host has a PID 1."""
        return processes.leader(self.directory) is not None

    def boot(self, *, wait: bool = True) -> None:
        """Switch the host on; with `wait` return when sshd answers and systemd has settled."""
        if self.is_running:
            raise LabError(f"{self.name} runs already: use reboot")
        # What is left of a run that ended by itself would be in the way of this one.
        self._clear()
        tree.mount(self.directory, ensure_image(self.record.image))
        self._start_keeper()
        if not wait_for(lambda: self.is_running or not self._is_kept(), timeout=BOOT_S) or not self.is_running:
            raise LabError(f"{self.name} went down while it booted: {self.console()}")
        self._settle(wait=wait)

    def reboot(self, *, wait: bool = True) -> None:
        """Reboot the host in an orderly way."""
        before = self._leader()
        processes.kill(before, REBOOT)
        if not wait_for(lambda: processes.leader(self.directory) not in (None, before), timeout=SHUTDOWN_S):
            raise LabError(f"{self.name} did not reboot within {SHUTDOWN_S:.0f} s: {self.console()}")
        self._settle(wait=wait)

    def power_off(self) -> None:
        """Shut the host down in an orderly way and wait until it is off."""
        processes.kill(self._leader(), POWER_OFF)
        if not wait_for(lambda: not self._is_kept(), timeout=SHUTDOWN_S):
            raise LabError(f"{self.name} did not power off within {SHUTDOWN_S:.0f} s: {self.console()}")
        self._wait_gone()

    def hard_stop(self) -> None:
        """Pull the plug: SIGKILL for PID 1, and wait until every process and the network link are gone."""
        leader = processes.leader(self.directory)
        if leader is not None:
            processes.kill(leader, signal.SIGKILL)
        self._clear()

    def destroy(self) -> None:
        """Stop the host and remove all of it from its lab."""
        self._forget(self)

    def partition(self) -> None:
        """Cut the host's network cable; it runs on and keeps its address, and stays cut over a reboot."""
        self._set_partitioned(cut=True)

    def heal(self) -> None:
        """Plug the cable in again."""
        self._set_partitioned(cut=False)

    def run(
        self,
        command: str,
        *,
        check: bool = True,
        timeout: float = RUN_S,
        input: str | bytes | None = None,  # noqa: A002  named as in subprocess
        user: str = "root",
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell line inside the host, without SSH, as root or as a login of another user.

        Raises LabError if it does not end within `timeout` seconds, or fails while `check` holds.
        """
        stdin = input.encode() if isinstance(input, str) else input or b""
        argv = entering.shell_argv(user, command)
        env = {**entering.ROOT_ENVIRONMENT, **(carried_environment() if self.record.online else {})}
        done = entering.enter(self.directory, self._leader(), argv, env=env, timeout=timeout, stdin=stdin)
        if check and done.returncode != 0:
            words = (done.stderr or done.stdout).strip()
            raise LabError(f"on {self.name}, {command!r} failed with {done.returncode}: {words}")
        return done

    def put(self, content: str | bytes, path: str, *, mode: int = 0o644) -> None:
        """Write a file of the running host, whole or not at all, owned by root."""
        target, partial, folder = (shlex.quote(str(name)) for name in (path, f"{path}.partial", Path(path).parent))
        self.run(
            f"mkdir -p {folder} && cat > {partial} && chmod {mode:o} {partial} && mv {partial} {target}",
            input=content,
        )

    def ssh_argv(self, command: str | None = None, *, user: str = SSH_USER) -> list[str]:
        """Return an ssh command line to the host, with the lab's key and strict host key checking."""
        lab = self.directory.parent.parent
        settings = (
            "BatchMode=yes",
            "StrictHostKeyChecking=yes",
            "IdentitiesOnly=yes",
            f"UserKnownHostsFile={lab / 'known_hosts'}",
        )
        options = [part for setting in settings for part in ("-o", setting)]
        line = ["ssh", "-F", "none", "-i", str(lab / "id_ed25519"), *options, f"{user}@{self.address}"]
        return line if command is None else [*line, command]

    def console(self) -> str:
        """Return the last lines of the host's console."""
        log = self.directory / "console.log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return " | ".join(line.strip() for line in lines[-LOG_LINES:]) or "its console is empty"

    def answers_ssh(self) -> bool:
        """Say whether an SSH server greets at the host's address right now."""
        try:
            with socket.create_connection((self.address, 22), timeout=1) as connection:
                return connection.recv(4) == b"SSH-"
        except OSError:
            return False

    def _settle(self, *, wait: bool) -> None:
        if self.record.partitioned:
            wait_for(lambda: link_exists(self.record.link), timeout=BOOT_S)
            set_link(self.record.link, "down")
        elif wait:
            self.wait_until_up()

    def wait_until_up(self, *, timeout: float = BOOT_S) -> None:
        """Wait until sshd answers and systemd has started, or failed to start, all that it wants."""
        deadline = time.monotonic() + timeout
        greeted = wait_for(lambda: self.answers_ssh() or not self._is_kept(), timeout=timeout)
        if not self.is_running:
            raise LabError(f"{self.name} went down while it booted: {self.console()}")
        if not greeted:
            raise LabError(f"{self.name} ({self.address}) did not answer SSH in {timeout:.0f} s: {self.console()}")
        left = max(1.0, deadline - time.monotonic())
        self.run("systemctl is-system-running --wait", check=False, timeout=left)

    def _start_keeper(self) -> None:
        (self.directory / "nspawn.pid").unlink(missing_ok=True)
        booted = units.booted_by_systemd()
        spec = {
            "machine": self.record.machine,
            "directory": str(self.directory),
            "in_unit": booted,
            "argv": nspawn_argv(self.record, self._bridge, self.directory, self._binds()),
            "env": nspawn_environment(),
        }
        file = self.directory / "keeper.json"
        file.write_text(json.dumps(spec))
        keeper = [sys.executable, "-I", str(KEEPER), str(file)]
        if booted:
            units.start(self.record.machine, keeper, self.directory / "console.log")
        else:
            _start_detached(keeper, self.directory / "console.log")

    def _binds(self) -> list[Bind]:
        plain = tree.plain_folders(self.directory, nested=self.record.nested)
        own = {**plain, **tree.device_nodes(self.directory)}
        binds = [Bind(str(source), target, read_only=False) for source, target in own.items()]
        if self.record.online:
            binds += [Bind(str(folder), str(folder)) for folder in package_folders()]
        if self.record.nested:
            binds.append(Bind(str(image_cache()), "/root/.cache/rbee/lab", read_only=False))
        return [*binds, *self.record.binds]

    def _leader(self) -> int:
        leader = processes.leader(self.directory)
        if leader is None:
            raise LabError(f"{self.name} is not running: boot it first")
        return leader

    def _is_kept(self) -> bool:
        return bool(processes.keepers(self.directory))

    def _set_partitioned(self, *, cut: bool) -> None:
        if link_exists(self.record.link):
            set_link(self.record.link, "down" if cut else "up")
        self.record = replace(self.record, partitioned=cut)
        self._note(self.record)

    def _clear(self) -> None:
        processes.kill_all(self.directory)
        tree.forget_machines(self.record.machine)
        self._wait_gone()

    def _wait_gone(self) -> None:
        units.forget(self.record.machine)
        if not wait_for(lambda: not link_exists(self.record.link), timeout=LINK_S):
            succeeds(("ip", "link", "delete", self.record.link))


def _start_detached(keeper: list[str], log: Path) -> None:
    with log.open("ab") as console:
        subprocess.run(
            keeper,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=console,
            stderr=console,
            start_new_session=True,
            env={"RBEE_LAB_DETACH": "1"},
        )
