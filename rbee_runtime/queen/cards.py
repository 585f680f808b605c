"""Which devices of a hive a worker could have together. Pure.

cards                  one, or as many as the model says, or as few as have room for it when nothing else is there
by heads (vLLM)        cards of one kind and size, and as many as divide the attention heads
by layers (llama.cpp)  cards of one kind
other engines          one card
the processor          where there is no card, or the model may have it beside cards
"""

from collections.abc import Iterable, Sequence
from itertools import combinations

from rbee_runtime.config import FleetModel
from rbee_runtime.engine_cards import BY_HEADS, SHARING_ENGINES
from rbee_runtime.models.facts import ModelFacts
from rbee_runtime.queen.ledger import Account, gib
from rbee_runtime.queen.needs import CPU, Needs, heads_of
from rbee_runtime.queen.renewal import engine_of

MOST_TRIED = 8
"""Cards of one kind of which every set is tried; of more only the emptiest."""

Devices = tuple[Account, ...]


def sets(
    model: FleetModel, accounts: Sequence[Account], needs: Needs, facts: ModelFacts | None
) -> tuple[list[Devices], str]:
    """Return the sets of devices that a worker may have, whatever is free there, and why there is none."""
    cards = [account for account in accounts if account.device.kind != CPU]
    processors = [account for account in accounts if account.device.kind == CPU]
    usable = [account for account in cards if account.device.healthy]
    found, reason = _of_cards(model, usable, needs, heads_of(facts)) if usable else ([], "")
    if (model.cpu or not cards) and not model.gpus:
        found += [(account,) for account in processors if account.device.healthy]
    if found:
        return found, ""
    sick = [account for account in (*cards, *processors) if not account.device.healthy]
    said = "; ".join(f"{a.id} is not healthy ({a.device.detail or 'no reason given'})" for a in sick)
    return [], reason or said or ("has no card" if processors else "reports no device")


def is_processor(devices: Iterable[Account]) -> bool:
    """Say whether these are the processor and main memory."""
    return any(account.device.kind == CPU for account in devices)


def _of_cards(model: FleetModel, cards: list[Account], needs: Needs, heads: int) -> tuple[list[Devices], str]:
    groups: dict[tuple[str, ...], list[Account]] = {}
    by_heads = engine_of(model) in BY_HEADS
    for account in cards:
        groups.setdefault(_kin(account, by_heads=by_heads), []).append(account)
    found: list[Devices] = []
    reasons: list[str] = []
    for group in groups.values():
        count, reason = _count(model, group, needs, heads)
        found += _together(group, count)
        reasons += [reason] if reason else []
    return found, "; ".join(dict.fromkeys(reasons))


def _kin(account: Account, *, by_heads: bool) -> tuple[str, ...]:
    """Return what cards have to agree in to share a worker."""
    device = account.device
    return (device.kind, device.name, str(device.total)) if by_heads else (device.kind,)


def _count(model: FleetModel, group: Sequence[Account], needs: Needs, heads: int) -> tuple[int, str]:
    """Return how many cards of a group share a worker (0: none can), and why none can."""
    if model.gpus:
        return (0, why) if (why := _cannot_share(model, group, model.gpus, heads)) else (model.gpus, "")
    sizes = sorted((account.capacity for account in group), reverse=True)
    for count in range(1, len(sizes) + 1):
        if not _cannot_share(model, group, count, heads) and needs.of(model, count) <= sizes[count - 1]:
            return count, ""
    more = f", nor do {len(sizes)} of them together" if len(sizes) > 1 else ""
    return 0, f"needs {gib(needs.of(model))}, its largest card gives {gib(sizes[0])} when nothing else is there{more}"


def _cannot_share(model: FleetModel, group: Sequence[Account], count: int, heads: int) -> str:
    engine, device = engine_of(model), group[0].device
    if count > len(group):
        alike = f"{device.name} of {gib(device.total)}" if engine in BY_HEADS else device.kind
        return f"needs {count} cards that are alike, and there are {len(group)} ({alike})"
    if count > 1 and engine not in SHARING_ENGINES:
        return f"engine {engine} takes one card, not {count}"
    if engine in BY_HEADS and heads and heads % count:
        return f"its {heads} attention heads cannot be shared out among {count} cards"
    return ""


def _together(group: Sequence[Account], count: int) -> list[Devices]:
    if not count:
        return []
    emptiest = sorted(group, key=lambda account: (-account.free, account.id))
    return list(combinations(emptiest[: max(count, MOST_TRIED)] if count > 1 else emptiest, count))
