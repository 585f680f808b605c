"""Which models go when room is needed: the least recently used that nothing holds."""

from collections import Counter
from collections.abc import Collection, Sequence

from rbee_runtime.protocol import ModelReport

IDLE_SECONDS = 600.0
"""A model used within this time stays: another hive on the same store may use it, and says so once a minute."""


def victims(
    reports: Sequence[ModelReport],
    *,
    keep: Collection[str],
    needed: int,
    now: float,
    blobs: Collection[str] = (),
    partly: bool = False,
) -> tuple[ModelReport, ...]:
    """Return the models to remove, in order, so that `needed` bytes come free.

    `keep` are names that are wanted or run; pinned models and those in use lately stay as well. `blobs` (sha256s) stay
    whichever models go, so that they free nothing.
    If that is not to be had, none go, or with `partly` as many as may.
    """
    free_to_go = sorted(
        (
            report
            for report in reports
            if report.name not in keep and not report.pinned and now - report.last_used >= IDLE_SECONDS
        ),
        key=lambda report: (report.last_used, report.name),
    )
    holders = Counter(sha256 for report in reports for sha256 in {file.sha256 for file in report.files})
    holders.update(set(blobs))
    chosen: list[ModelReport] = []
    for report in free_to_go:
        if needed <= 0:
            break
        chosen.append(report)
        for sha256, size in {file.sha256: file.size for file in report.files}.items():
            holders[sha256] -= 1
            needed -= size if holders[sha256] == 0 else 0
    return tuple(chosen) if needed <= 0 or partly else ()
