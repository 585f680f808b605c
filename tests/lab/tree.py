"""The file tree of one host: an overlay over the base image, with an identity of its own."""

import os
import stat
import uuid
from pathlib import Path

from tests.lab.commands import output, succeeds
from tests.lab.errors import LabError
from tests.lab.recipes import PASSWORD_USER, PLAIN_USER, SSH_USER
from tests.lab.records import HostRecord

# No overlay on overlay: container storage and nested labs need folders of a plain file system.
PLAIN = {"containers": "/var/lib/containers", "docker": "/var/lib/docker", "containerd": "/var/lib/containerd"}
PLAIN_NESTED = {"lab": "/var/tmp/rbee-lab"}
DEVICES = ("/dev/fuse", "/dev/net/tun")
NSPAWN_RUNTIME = Path("/run/systemd/nspawn")
LOGINS = {"root": "root", **{user: f"home/{user}" for user in (SSH_USER, PASSWORD_USER, PLAIN_USER)}}


def mount(directory: Path, image: Path) -> Path:
    """Mount the host's tree if it is not mounted and return where."""
    root = directory / "root"
    if not root.is_mount():
        for name in ("root", "upper", "work"):
            (directory / name).mkdir(parents=True, exist_ok=True)
        layers = {"lowerdir": image, "upperdir": directory / "upper", "workdir": directory / "work"}
        options = ",".join(f"{key}={_escaped(path)}" for key, path in layers.items())
        try:
            output(("mount", "-t", "overlay", "-o", options, "rbee-lab", str(root)))
        except LabError as error:
            raise LabError(f"{error}: set RBEE_LAB_DIR to a folder on ext4, xfs or btrfs") from error
    return root


def unmount(directory: Path) -> None:
    """Unmount everything at or below a folder, deepest first."""
    for mount_point in reversed(_mounts_below(directory)):
        _forget_lock(Path(mount_point))
        if not succeeds(("umount", mount_point)):
            output(("umount", "--lazy", mount_point))


def forget_machines(pattern: str) -> None:
    """Remove what a killed systemd-nspawn leaves in /run; it refuses to start a machine of that name otherwise."""
    for folder in NSPAWN_RUNTIME.glob(f"*/{pattern}"):
        if folder.is_dir():
            unmount(folder)
            folder.rmdir()


def plain_folders(directory: Path, *, nested: bool) -> dict[Path, str]:
    """Make the host's folders outside its overlay and return where each appears inside."""
    wanted = {**PLAIN, **PLAIN_NESTED} if nested else PLAIN
    folders = {directory / "plain" / name: target for name, target in wanted.items()}
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    return folders


def device_nodes(directory: Path) -> dict[Path, str]:
    """Make device files as a host has them, for everybody, and return where each appears inside.

    Not this machine's own: these may be for root alone, and containers of users without rights need them.
    """
    nodes = {directory / "dev" / Path(name).name: name for name in DEVICES if Path(name).exists()}
    for node, name in nodes.items():
        if not node.exists():
            node.parent.mkdir(exist_ok=True)
            os.mknod(node, stat.S_IFCHR | 0o666, Path(name).stat().st_rdev)
            node.chmod(0o666)
    return nodes


def personalise(root: Path, record: HostRecord, gateway: str, public_key: str) -> str:
    """Give a fresh tree its name, address and keys; return its public host key as a known_hosts line."""
    (root / "etc/hostname").write_text(f"{record.name}\n")
    (root / "etc/hosts").write_text(f"127.0.0.1 localhost\n{record.address} {record.name}\n")
    (root / "etc/machine-id").write_text(f"{uuid.uuid4().hex}\n")
    (root / "etc/systemd/network/10-lab.network").write_text(network_file(record, gateway))
    for user, home in LOGINS.items():
        _authorise(root, user, root / home, public_key)
    key = root / "etc/ssh/ssh_host_ed25519_key"
    make_key(key, comment=record.name)
    kind, value, *_ = key.with_suffix(".pub").read_text().split()
    return f"{record.address} {kind} {value}"


def network_file(record: HostRecord, gateway: str) -> str:
    """Return the systemd-networkd file of a host; an offline host has no way out, so it fails at once, not slowly.

    The address stays when the cable is cut: what a partition breaks shall be the path, not the host's own sockets.
    """
    route = f"Gateway={gateway}\n" if record.online else ""
    return f"""[Match]
Name=host0

[Network]
Address={record.address}/24
{route}LinkLocalAddressing=no
IPv6AcceptRA=no
ConfigureWithoutCarrier=yes
IgnoreCarrierLoss=yes
"""


def make_key(path: Path, *, comment: str) -> None:
    """Make an SSH key pair without a passphrase."""
    output(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", comment, "-f", str(path)))


def _authorise(root: Path, user: str, home: Path, public_key: str) -> None:
    folder = home / ".ssh"
    folder.mkdir(mode=0o700, exist_ok=True)
    (folder / "authorized_keys").write_text(public_key)
    output(("chroot", str(root), "chown", "--recursive", f"{user}:", f"/{folder.relative_to(root)}"))


def _forget_lock(root: Path) -> None:
    """Remove the lock on a tree that a killed systemd-nspawn leaves behind."""
    found = root.stat()
    (NSPAWN_RUNTIME / "locks" / f"inode-{found.st_dev}:{found.st_ino}").unlink(missing_ok=True)


def _escaped(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace(":", "\\:").replace(",", "\\,")


def _mounts_below(directory: Path) -> list[str]:
    lines = (line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines())
    points = (words[4].encode().decode("unicode_escape") for words in lines)
    return [point for point in points if Path(point).is_relative_to(directory)]
