"""Graphics cards as the kernel lists them, common to AMD and Intel."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from rbee_runtime.devices.tree import Tree, number

CARDS = "/sys/class/drm"

_CARD = re.compile(r"card(\d+)")
_PCI = re.compile(r"[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]")


@dataclass(frozen=True)
class Card:
    """One card: `path` in /sys/class/drm, `device` its PCI function's folder there, `driver` the module."""

    index: int
    path: str
    device: str
    pci: str
    driver: str


def cards(tree: Tree, vendor: int) -> Iterator[Card]:
    """Return the cards of a vendor in the kernel's order."""
    found = sorted(int(match[1]) for name in tree.names(CARDS) if (match := _CARD.fullmatch(name)))
    for index in found:
        path = f"{CARDS}/card{index}"
        device = f"{path}/device"
        if number(tree, f"{device}/vendor") == vendor:
            pci = tree.target(device)
            # Virtual functions of other buses (partitions of one card) have no address of their own.
            if _PCI.fullmatch(pci):
                yield Card(index, path, device, pci, tree.target(f"{device}/driver"))


def sensors(tree: Tree, card: Card) -> dict[str, str]:
    """Return temperature (°C), power and its limit (W) as far as the card's hwmon has them."""
    for name in tree.names(f"{card.device}/hwmon"):
        at = f"{card.device}/hwmon/{name}"
        power = number(tree, f"{at}/power1_average")
        return _said(
            temperature=scaled(number(tree, f"{at}/temp1_input"), 1000),
            power=scaled(number(tree, f"{at}/power1_input") if power is None else power, 1_000_000),
            power_limit=scaled(number(tree, f"{at}/power1_cap") or number(tree, f"{at}/power1_max"), 1_000_000),
        )
    return {}


def scaled(value: int | None, divisor: int) -> str:
    """Return a reading in another unit, or an empty text where there is none."""
    return "" if value is None else f"{value / divisor:g}"


def _said(**values: str) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
