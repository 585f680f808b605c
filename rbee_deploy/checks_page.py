"""The page of the documentation that lists what preflight looks at, made from the checks themselves."""

import sys
from collections.abc import Iterator, Sequence

from rbee_deploy.preflight import CHECKS, Check, Severity

_HEAD = """\
# What is checked before a deploy

Before anything changes on a host, `rbee-deploy` reads what it is in one command and looks at the following, in this
order. A check that is *fatal* drops the host from the run with one sentence that says what is wrong and what to do; the
other hosts go on. A *hint* stands beside the host's first line in the report and stops nothing. What a host does not
tell is not held against it.

This page is made from the code: `python -m rbee_deploy.checks_page >docs/checks.md` in a checkout of rbee.
"""


def page(checks: Sequence[Check] = CHECKS) -> str:
    """Return the page."""
    table = ["| check | for | |", "|---|---|---|", *map(_row, checks)]
    return "\n".join((_HEAD, *table, "", *(line for check in checks for line in _section(check))))


def _row(check: Check) -> str:
    return f"| [{check.id}](#{check.id}) | {check.scope} | {check.severity} |"


def _section(check: Check) -> Iterator[str]:
    kind = "Hint" if check.severity is Severity.HINT else "Fatal"
    ending = ", and the last one that such a host gets" if check.gate else ""
    yield f"## {check.id}"
    yield ""
    yield f"{check.title}. {kind}, for {check.scope}{ending}."
    yield ""
    for title, text in (
        ("Looks at", check.looks_at),
        ("Fails when", check.fails_when),
        ("Why", check.why),
        ("Fix", check.fix),
    ):
        yield f"- **{title}**: {text}."
    yield ""


if __name__ == "__main__":
    sys.stdout.write(page())
