"""Users, groups and directories of a host, as data: who may read what is decided here."""

from dataclasses import dataclass
from pathlib import PurePosixPath

from rbee_deploy.modes import ContainerEngine
from rbee_deploy.site import Host
from rbee_runtime import ports


@dataclass(frozen=True)
class Group:
    """A system group."""

    name: str


@dataclass(frozen=True)
class User:
    """A system user without login, with a group of its own name.

    `groups` are needed; `groups_if_present` are joined where the host has them (a driver made them).
    """

    name: str
    comment: str
    groups: tuple[str, ...] = ()
    groups_if_present: tuple[str, ...] = ()
    home: str = "/nonexistent"
    shell: str = "/usr/sbin/nologin"


@dataclass(frozen=True)
class Directory:
    """A directory with its owner and mode (octal digits)."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: str = "0755"


DEVICE_GROUPS = ("video", "render")
"""Own /dev/dri and /dev/kfd where a GPU driver is installed."""

_QUEEN = User(ports.QUEEN_USER, "rbee queen")
_HIVE = User(ports.HIVE_USER, "rbee hive", (ports.MODELS_GROUP, "systemd-journal"), DEVICE_GROUPS)
_ENGINE = User(ports.ENGINE_USER, "rbee containers", home=str(ports.ENGINE_STATE))
_WORKER = User(ports.WORKER_USER, "rbee workers", (ports.MODELS_GROUP,), DEVICE_GROUPS)


def groups(host: Host) -> tuple[Group, ...]:
    """Return the groups to make before the users."""
    return (Group(ports.MODELS_GROUP),) if host.hive or _is_rootless(host) else ()


def users(host: Host) -> tuple[User, ...]:
    """Return the users that the host's roles run as."""
    if _is_rootless(host):
        # All of them, whatever it is now: what an id is called inside depends on which others were lent.
        return (_QUEEN, _HIVE, _WORKER, _ENGINE)
    return (*((_QUEEN,) if host.queen else ()), *((_HIVE, _WORKER) if host.hive else ()))


def _is_rootless(host: Host) -> bool:
    return host.container_engine is ContainerEngine.ROOTLESS


def directories(host: Host) -> tuple[Directory, ...]:
    """Return the directories that must exist, parents first."""
    common = (
        Directory(str(ports.PREFIX)),
        Directory(str(ports.RELEASES)),
        Directory(str(ports.ENGINES)),
        Directory(str(ports.ETC)),
        # The directory is closed as well, so that even the names of credentials stay with root.
        Directory(str(ports.CREDENTIALS), mode="0700"),
        Directory(str(ports.STATE)),
    )
    queen = (Directory(str(ports.QUEEN_STATE), ports.QUEEN_USER, ports.QUEEN_USER, "0700"),) if host.queen else ()
    home = Directory(str(ports.ENGINE_STATE), ports.ENGINE_USER, ports.ENGINE_USER, "0700")
    engine = (home,) if _is_rootless(host) else ()
    return (*common, *engine, *queen, *(_hive_directories(host) if host.hive else ()))


def _hive_directories(host: Host) -> tuple[Directory, ...]:
    state = str(ports.HIVE_STATE)
    models = PurePosixPath(host.models_dir)
    # The set-group-ID bit gives new model files to the group that workers read with.
    store = (models, models / "blobs", models / "manifests")
    return (
        Directory(state, ports.HIVE_USER, ports.HIVE_USER, "0700"),
        Directory(f"{state}/workers", ports.HIVE_USER, ports.HIVE_USER, "0700"),
        *(Directory(str(path), ports.HIVE_USER, ports.MODELS_GROUP, "2750") for path in store),
    )
