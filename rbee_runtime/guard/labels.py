"""What SELinux lets workers in containers read, and which of the folders that they see are rbee's to label. Pure.

Types and switches are those of container-selinux, its container.te and container.if: there every container's domain
manages `container_file_t` and `fusefs_t` and reads `container_ro_file_t`, and switches open others. `usr_t`, which is
all below `/opt` and `/usr`, every domain of Fedora's policy reads (domain.te: `files_read_all_base_ro_files`).
"""

from collections.abc import Collection, Mapping
from pathlib import Path

from rbee_runtime import ports

READABLE = frozenset({"container_file_t", "container_ro_file_t", "fusefs_t", "usr_t"})
SWITCHES: Mapping[str, str] = {
    "nfs_t": "virt_use_nfs",
    "cifs_t": "virt_use_samba",
    "cephfs_t": "container_use_cephfs",
    "ecryptfs_t": "container_use_ecryptfs",
    "public_content_t": "container_read_public_content",
    "public_content_rw_t": "container_read_public_content",
}
"""Types that workers may read once a switch is on; file systems of most of them take no label of their own."""

WITHOUT_LABELS = frozenset({"dosfs_t", "iso9660_t", "hugetlbfs_t"})
"""Types of file systems of which no file has a label of its own, and that no switch opens."""
SHARED = "system_u:object_r:container_ro_file_t:s0"


def is_own(folder: Path) -> bool:
    """Say whether a folder is a place of rbee's, which may be labelled with all that is in it.

    Any other one is the operator's, whoever made it: others may count on its labels, and it may be as big as a disk.
    """
    return folder.is_relative_to(ports.STATE)


def type_of(label: str) -> str:
    """Return the type in a label such as `system_u:object_r:usr_t:s0`, "" if there is none."""
    return [*label.split(":"), "", ""][2]


def is_private(label: str) -> bool:
    """Say whether a label has categories, as `:Z` gives them, which no other container has."""
    return len(label.split(":")) > 4


def is_readable(label: str, switches: Collection[str]) -> bool:
    """Say whether every container may read what has this label where these switches are on."""
    found = type_of(label)
    return not is_private(label) and (found in READABLE or SWITCHES.get(found) in switches)
