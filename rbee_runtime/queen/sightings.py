"""The hives as placement sees them, kept up to date one by one, and which of them placement has to look at again."""

from bisect import bisect_left, insort
from collections.abc import Mapping
from types import MappingProxyType

from rbee_runtime.config import FleetFile
from rbee_runtime.queen import seating
from rbee_runtime.queen.desired import Holders
from rbee_runtime.queen.membership import Membership, Presence
from rbee_runtime.queen.situation import HiveView, Index

_SILENT = frozenset({Presence.SUSPECT, Presence.LOST})


class Sightings:
    """Owns one view per hive; a heartbeat makes one anew, and the clock those of hives that fell silent."""

    def __init__(self, membership: Membership) -> None:
        self._membership = membership
        self._views: dict[str, HiveView] = {}
        self._labels: dict[str, Mapping[str, str]] | None = None
        self._held: dict[str, frozenset[str]] = {}
        self._disks: dict[str, dict[str, int]] = {}
        self._emptiest: list[tuple[int, str]] = []
        self.index = Index(self._disks, self._emptiest)
        self._holders: dict[str, dict[str, str]] = {}
        self._silent: set[str] = set()
        self._unknown: set[str] = set()
        self._due: set[str] = set()
        self._moved: set[str] = set()
        self._drained: set[str] = set()
        self._seen: set[str] = set()
        self._touched: set[str] = set()
        self._sized: set[str] = set()

    @property
    def views(self) -> Mapping[str, HiveView]:
        """Return the hives that may have workers: those of the inventory, all that were heard where it names none."""
        return MappingProxyType(self._views)

    @property
    def holders(self) -> Holders:
        """Return which live hives have which models on disk, and where they answer."""
        return self._holders

    @property
    def heard(self) -> bool:
        """Say whether nobody is left who has not spoken yet."""
        return not self._unknown

    @property
    def frozen(self) -> bool:
        """Say whether so many fell silent together that nothing is to be moved."""
        return len(self._silent) > 1 and self._membership.frozen(self._views.keys())

    def follow(self, fleet: FleetFile) -> None:
        """Take what the fleet file says of hives; every hive is looked at anew."""
        self._labels = {hive.name: hive.labels for hive in fleet.hives} or None
        for name in [name for name in self._views if self._labels is not None and name not in self._labels]:
            gone = self._views.pop(name)
            self._note_disk(name, gone.sizes, {})
            self._rank(name, gone, None)
            self._silent.discard(name)
            self._unknown.discard(name)
        for name in (*(self._labels or ()), *self._membership.members):
            self.look(name)

    def tick(self) -> None:
        """Look at the hives that fell silent or are lost by now."""
        presence = self._membership.presence
        for name in [name for name, view in self._views.items() if presence(name) is not view.presence]:
            self.look(name)
        foreign = self._membership.members.keys() - self._views.keys()
        self._seen |= foreign
        for name in [name for name in self._held if name in foreign and presence(name) is not Presence.LIVE]:
            self._hold(name)

    def look(self, name: str) -> HiveView | None:
        """Make the view of one hive anew and return it, None of one that may have no workers."""
        self._hold(name)
        self._seen.add(name)
        if self._labels is not None and name not in self._labels:
            return None
        labels = self._labels[name] if self._labels is not None else {}
        before = self._views.get(name)
        view = seating.hive_view(name, labels, self._membership)
        if before == view:
            return before
        self._views[name] = view
        self._touched.add(name)
        self._rank(name, before, view)
        if before is None or seating.differs(before, view):
            self._due.add(name)
            self._sized |= self._note_disk(name, before.sizes if before is not None else {}, view.sizes)
        if before is None or before.drained is not view.drained:
            self._drained.add(name)
        _keep(self._silent, name, there=view.presence in _SILENT)
        _keep(self._unknown, name, there=view.presence is Presence.UNKNOWN)
        return view

    def take_due(self) -> set[str]:
        """Return the hives of which a plan may say something else since the last call."""
        due, self._due = self._due, set()
        return due

    def take_touched(self) -> set[str]:
        """Return the hives of which anything is another than at the last call, be it how much of all is used."""
        touched, self._touched = self._touched, set()
        return touched

    def take_sized(self) -> set[str]:
        """Return the models that hives have of another size, have newly or have no more, since the last call."""
        sized, self._sized = self._sized, set()
        return sized

    def take_drained(self) -> set[str]:
        """Return the hives that are drained now and were not at the last call, or the other way round."""
        drained, self._drained = self._drained, set()
        return drained

    def take_seen(self) -> dict[str, tuple[Presence, bool]]:
        """Return presence, and whether they are to be drained, of hives of which that may be another than before."""
        seen, self._seen = self._seen, set()
        members, presence = self._membership.members, self._membership.presence
        return {name: (presence(name), members[name].record.drained) for name in sorted(seen & members.keys())}

    def take_moved(self) -> set[str]:
        """Return the models that other hives have than at the last call."""
        moved, self._moved = self._moved, set()
        return moved

    def _note_disk(self, hive: str, before: Mapping[str, int], now: Mapping[str, int]) -> set[str]:
        """Note what a hive has on disk, and return the models of which that is another size than before."""
        changed = {model for model, _ in before.items() ^ now.items()}
        for model in changed:
            if model in now:
                self._disks.setdefault(model, {})[hive] = now[model]
            else:
                del self._disks[model][hive]
        return changed

    def _rank(self, hive: str, before: HiveView | None, now: HiveView | None) -> None:
        """Note how much of a hive is unused."""
        old, new = (None if view is None else (-view.unused, hive) for view in (before, now))
        if old != new:
            if old is not None:
                del self._emptiest[bisect_left(self._emptiest, old)]
            if new is not None:
                insort(self._emptiest, new)

    def _hold(self, name: str) -> None:
        """Note which models a hive has on disk, as long as it is live."""
        member = self._membership.members.get(name)
        live = member is not None and self._membership.presence(name) is Presence.LIVE
        report = member.report if member is not None and live else None
        held = frozenset(model.name for model in report.models) if report is not None else frozenset[str]()
        before = self._held.get(name, frozenset())
        for model in before - held:
            del self._holders[model][name]
        url = member.record.url if member is not None else ""
        changed = {model for model in held if self._holders.get(model, {}).get(name) != url}
        for model in changed:
            self._holders.setdefault(model, {})[name] = url
        self._moved |= changed | (before - held)
        if held:
            self._held[name] = held
        else:
            self._held.pop(name, None)


def _keep(names: set[str], name: str, *, there: bool) -> None:
    if there:
        names.add(name)
    else:
        names.discard(name)
