"""What a server's own figures say of how busy it is."""

import math
from collections.abc import Mapping
from contextlib import suppress

from rbee_runtime.worker.engines import Gauges
from rbee_runtime.worker.engines.served.dialects import Levels


def gauges(text: str, levels: Levels) -> Gauges:
    """Return how busy a server is by its Prometheus text; what it does not tell is 0."""
    values = _values(text, frozenset({levels.busy, levels.waiting, levels.held_share, levels.cells}) - {""})
    cells = int(values.get(levels.cells, 0.0))
    return Gauges(
        busy=int(values.get(levels.busy, 0.0)),
        waiting=int(values.get(levels.waiting, 0.0)),
        held=round(cells * values.get(levels.held_share, 0.0)),
        cells=cells,
    )


def _values(text: str, wanted: frozenset[str]) -> Mapping[str, float]:
    """Return the sums of the wanted samples; `NAME[LABEL]` is a number that a label has.

    Not by the client library's parser: it reads the hundred other families too, and takes 20 ms for it.
    """
    found: dict[str, float] = {}
    labels = {name.partition("[")[0]: name for name in wanted if name.endswith("]")}
    for line in text.splitlines():
        name = line[: min(at for at in (line.find("{"), line.find(" "), len(line)) if at >= 0)]
        key = labels.get(name, name)
        if key not in wanted:
            continue
        told = _label(line, key) if key in labels.values() else line.rpartition(" ")[2]
        with suppress(ValueError):
            value = float(told)
            found[key] = found.get(key, 0.0) + (value if math.isfinite(value) else 0.0)
    return found


def _label(line: str, key: str) -> str:
    label = key.partition("[")[2].removesuffix("]")
    return line.partition(f'{label}="')[2].partition('"')[0]
