"""What a rollback says before it begins."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import time

import pytest

from rbee_deploy.cli import going_back
from rbee_deploy.history import Past, Step, back, to

OLD, NEW = Step("a", "0.1.0-a", 60, "run1"), Step("b", "0.2.0-b", 86400, "run2")
LATER = Step("b", "0.2.0-b", 90000, "run2again")
WHEN = time.strftime("%Y-%m-%d %H:%M", time.localtime(86400))
FORMER = Step("c", "0.2.0-b", 80000, "run2", images=("x",), engine="podman", kinds=("hive",))
REBUILT = Step("d", "0.2.0-b", 86400, "run3", images=("y",), engine="podman", kinds=("hive",))


@pytest.mark.parametrize(
    ("release", "pasts", "said"),
    [
        ("", {"q": (OLD, NEW), "h": (OLD, LATER)}, f"what was before {WHEN}: q, h to 0.1.0-a"),
        ("", {"q": (OLD, NEW), "h": (Step("z", "0.0.9-z", 1), NEW)}, f"before {WHEN}: q to 0.1.0-a; h to 0.0.9-z"),
        ("", {"h": (FORMER, REBUILT), "q": (OLD,)}, f"before {WHEN}: h to the images before, of 0.2.0-b"),
        ("0.1.0", {"q": (OLD, NEW), "h": (OLD,)}, "rolling back to 0.1.0: q to 0.1.0-a"),
        ("", {f"h{at}": (OLD, NEW) for at in range(10)}, "h0, h1, h2, h3, h4, h5, h6, h7 and 2 more to 0.1.0-a"),
    ],
)
def test_a_rollback_says_which_hosts_go_where(release: str, pasts: dict[str, tuple[Step, ...]], said: str) -> None:
    """The time is that at which the change that is taken back began; hosts with the same way are named together."""
    known = {name: Past(steps) for name, steps in pasts.items()}
    line = going_back.announced(release, known, to(release, known) if release else back(known))
    assert line.startswith("rolling back to ")
    assert line.endswith(said)
