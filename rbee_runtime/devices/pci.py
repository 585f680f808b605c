"""Display devices on the PCI bus, also those that no driver has taken."""

from collections.abc import Iterator

from rbee_runtime.devices.tree import Tree, number

DEVICES = "/sys/bus/pci/devices"

_DISPLAY = 0x03
"""The first byte of the class: VGA-compatible, 3D and other display controllers."""


def displays(tree: Tree, vendor: int) -> Iterator[tuple[str, str]]:
    """Return the address of each display device of a vendor, and the driver that has it or an empty text."""
    for address in tree.names(DEVICES):
        at = f"{DEVICES}/{address}"
        if (number(tree, f"{at}/class") or 0) >> 16 == _DISPLAY and number(tree, f"{at}/vendor") == vendor:
            yield address, tree.target(f"{at}/driver")
