"""The network of workers of a rootless Podman, and the rules in it: somebody has to be in it for both to be there.

Podman makes the user's network with the first container that needs it and takes it away with the last. So the unit of
the rules has a process in it, which ends when its input does, with whatever happens to the unit's own process.
"""

import pwd
import signal
import subprocess
from collections.abc import Sequence
from types import FrameType

from rbee_deploy.activator import engines
from rbee_deploy.activator.rootless import account
from rbee_deploy.activator.units import ActivationError
from rbee_runtime import notify, ports
from rbee_runtime.worker_bridge import TABLES

IN_IT = ("unshare", "--rootless-netns", "sh", "-c", "echo $$; exec cat")
NFT_SECONDS = 30.0


def hold() -> int:
    """Be the unit's process: enter the network, put the rules in force and stay there; return the exit status."""
    account.prepare()
    words = [*engines.command(engines.ROOTLESS), *IN_IT]
    signal.signal(signal.SIGTERM, _ended)
    # At the end of the block its input is closed and its end waited for.
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        number = holder.stdout.readline(account.MOST_PID) if holder.stdout is not None else ""
        if not _is_theirs(number):
            raise ActivationError("podman gives its user no network: see its words above")
        ports.NETWORK_RUN.mkdir(mode=0o755, exist_ok=True)
        ports.NETWORK_HOLDER.write_text(f"{number.strip()}\n")
        load()
        notify.notify("READY=1")
        holder.wait()
    # Nobody asked for that, or this would not be reached.
    return 1


def _ended(_number: int, _frame: FrameType | None) -> None:
    raise SystemExit(0)


def _is_theirs(number: str) -> bool:
    """Say whether a process is the engine user's: nobody else's network gets these rules, whatever that user says."""
    return account.owned(number, pwd.getpwnam(ports.ENGINE_USER).pw_uid) is not None


def load() -> None:
    """Put the rules in force, in the network of the holder; ActivationError with what nft says.

    The mark by which the guard knows of them is away before they change, and there again once both tables are.
    """
    ports.NETWORK_MARK.unlink(missing_ok=True)
    _nft("-f", str(ports.NETWORK_RULES))
    for table in TABLES:
        _nft("list", "table", *table.split())
    ports.NETWORK_MARK.touch(mode=0o600)


def _nft(*words: str) -> None:
    try:
        number = ports.NETWORK_HOLDER.read_text().strip()
    except OSError:
        number = ""
    if not _is_theirs(number):
        raise ActivationError(f"nobody holds the network of workers: systemctl restart {ports.NETWORK_UNIT}")
    done = _run(("nsenter", f"--net=/proc/{number}/ns/net", "nft", *words))
    if done.returncode != 0:
        raise ActivationError(done.stderr.strip() or "nft failed and said nothing")


def _run(words: Sequence[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        words, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL, timeout=NFT_SECONDS
    )
