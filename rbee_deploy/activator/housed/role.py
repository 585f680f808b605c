"""A role in a container: who it is on this host, and what a unit file cannot know of the host."""

import grp
import os
import pwd
import re
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rbee_deploy.activator.units import ActivationError
from rbee_runtime import ports

CDI_FOLDERS = (Path("/etc/cdi"), Path("/var/run/cdi"))
NVIDIA = "nvidia.com/gpu"
ALL_CARDS = f"--device={NVIDIA}=all"
_ALL = re.compile(r"""name["']?:\s*["']?all\b""")
"""In YAML and in JSON."""

DEVICE_GROUPS = ("video", "render")
SELINUX = Path("/sys/fs/selinux/enforce")
UNLABELLED = "--security-opt=label=disable"
"""Policies for containers let no process in one connect to a socket of its host: the guard's, systemd's. What the two
may do is what their users may, as on a bare host; workers keep their label."""


@dataclass(frozen=True)
class HousedRole:
    """Queen or hive: `groups` are those of its user on the host that its container is in as well."""

    name: str
    user: str
    unit: str
    state: Path
    run: Path
    groups: tuple[str, ...] = ()

    @property
    def container(self) -> str:
        """Return the name of its container."""
        return f"rbee-{self.name}"

    @property
    def leaving(self) -> str:
        """Return how names of containers begin that finish their streams."""
        return f"{self.container}-leaving-"

    @property
    def running_file(self) -> Path:
        """Return what it writes when it is ready, and takes away when it has let go."""
        return self.run / ports.RUNNING_FILE

    @property
    def credentials(self) -> str:
        """Return where its container has its credentials."""
        return f"/run/credentials/{self.unit}"


ROLES = {
    "queen": HousedRole("queen", ports.QUEEN_USER, ports.QUEEN_UNIT, ports.QUEEN_STATE, ports.QUEEN_RUN),
    "hive": HousedRole(
        "hive",
        ports.HIVE_USER,
        ports.HIVE_UNIT,
        ports.HIVE_STATE,
        ports.HIVE_RUN,
        (ports.MODELS_GROUP, *DEVICE_GROUPS),
    ),
}


def ids(role: HousedRole) -> tuple[int, int]:
    """Return uid and gid of a role's user, or raise ActivationError."""
    try:
        known = pwd.getpwnam(role.user)
    except KeyError as error:
        raise ActivationError(f"there is no user {role.user} on this host; run the deploy again") from error
    return known.pw_uid, known.pw_gid


def options(role: HousedRole, shown: Sequence[str], gids: Callable[[Iterable[int]], list[int]] = list) -> list[str]:
    """Return what the engine is told beyond the unit file; `shown` are folders to read, of which some may not be.

    `gids` are the names that the engine has for groups.
    """
    groups = [f"--group-add={gid}" for gid in gids(_gids(role.groups))]
    folders = [f"--volume={path}:{path}:ro" for path in shown if Path(path).is_dir()]
    devices = [ALL_CARDS] if role.name == "hive" and _gives_all_cards(CDI_FOLDERS) else []
    labels = [UNLABELLED] if SELINUX.exists() else []
    return [*groups, *folders, *devices, *labels]


def _gids(names: Iterable[str]) -> list[int]:
    found = {group.gr_name: group.gr_gid for group in grp.getgrall()}
    return [found[name] for name in names if name in found]


def _gives_all_cards(folders: Iterable[Path]) -> bool:
    """Say whether a CDI specification has a device that stands for every NVIDIA card; the hive counts them."""
    for folder in folders:
        for path in (*folder.glob("*.yaml"), *folder.glob("*.json")):
            try:
                text = path.read_text(errors="replace")
            except OSError:
                continue
            if NVIDIA in text and _ALL.search(text):
                return True
    return False


def run_folder(role: HousedRole) -> None:
    """Make the folder in which the role says what runs, empty of what an earlier process said.

    The folder is the role's own, so nothing in it is followed or opened.
    """
    role.run.mkdir(mode=0o755, exist_ok=True)
    role.run.chmod(0o755)
    os.chown(role.run, *ids(role))
    if role.running_file.is_dir() and not role.running_file.is_symlink():
        shutil.rmtree(role.running_file)
    else:
        role.running_file.unlink(missing_ok=True)
