"""A whole machine in software: a kernel of its own, and so the unified control groups that hosts of the lab lack."""

import platform
import shutil
import sys
from pathlib import Path

from tests.lab import ensure_image
from tests.lab.commands import SLOW_S, output
from tests.lab.errors import LabUnavailableError
from tests.lab.preconditions import ensure_packages
from tests.lab.recipes import GUEST

QEMU, QEMU_PACKAGE = "qemu-system-x86_64", "qemu-system-x86"
GUEST_SECONDS = 480.0
"""Most of it is systemd and Podman on an emulated processor."""

MARK = "told: "
_KERNEL, _INITRD = "boot/vmlinuz-*", "boot/initrd.img-*"


def told(ask: str, given: Path, base: Path) -> list[str]:
    """Boot a machine, run a script there as root and return what it printed after the mark, then have it gone.

    The script finds the files of `given` in /mnt and the tree `base` in /srv. The emulator is installed where it is
    missing: nothing else needs it. Raises LabUnavailableError where that cannot be, LabError when the machine
    does not end in time.
    """
    if platform.machine() != "x86_64":
        raise LabUnavailableError(f"the guest's kernel is of x86_64 and this machine is {platform.machine()}")
    if shutil.which(QEMU) is None:
        ensure_packages((QEMU_PACKAGE,))
    (given / "ask.sh").write_text(ask)
    tree, disks = ensure_image(GUEST.name), given.with_name(f"{given.name}-disks")
    disks.mkdir()
    for name, source, size in (("root", tree, "3G"), ("given", given, "64M"), ("base", base, "2G")):
        output(("mke2fs", "-q", "-t", "ext4", "-d", str(source), str(disks / name), size), timeout=SLOW_S)
    run = "mount /dev/vdb /mnt && mount /dev/vdc /srv && sh /mnt/ask.sh >/dev/ttyS0 2>&1"
    words = f"root=/dev/vda rw console=ttyS0 quiet systemd.show_status=0 panic=1 systemd.run=\"/bin/sh -c '{run}'\""
    drives = [f"-drive=file={disks / name},if=virtio,format=raw" for name in ("root", "given", "base")]
    (kernel,), (initrd,) = tree.glob(_KERNEL), tree.glob(_INITRD)
    argv = [
        *(QEMU, "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1536", "-nographic", "-no-reboot"),
        *(word for drive in drives for word in drive.split("=", 1)),
        *("-nic", "none", "-kernel", str(kernel), "-initrd", str(initrd), "-append", words),
    ]
    try:
        said = output(argv, timeout=GUEST_SECONDS)
    finally:
        shutil.rmtree(disks)
    # Shown where a test fails.
    sys.stdout.write(said)
    return [line.partition(MARK)[2].strip() for line in said.splitlines() if MARK in line]
