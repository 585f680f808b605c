"""Other releases of rbee: copies of this checkout with something changed in them, good or bad."""

import shutil
from dataclasses import dataclass
from pathlib import Path

from tests.e2e.fleets import ROOT

TREES = ("rbee_deploy", "rbee_runtime", "templates", "requirements", "containerfiles")
FILES = ("pyproject.toml", "LICENSE", "config.py")


@dataclass(frozen=True)
class Edit:
    """One change of a file: `old`, which must be there once, becomes `new`; no `old` means that `new` is added."""

    path: str
    new: str
    old: str = ""

    def make(self, root: Path) -> None:
        """Change the file in a copy."""
        text = (root / self.path).read_text()
        assert not self.old or text.count(self.old) == 1, f"{self.path} has no single {self.old!r}"
        (root / self.path).write_text(text.replace(self.old, self.new) if self.old else text + self.new)


def copy(folder: Path, *edits: Edit) -> Path:
    """Return the root of a copy of this checkout with these changes."""
    for name in TREES:
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy2(ROOT / name, folder / name)
    for edit in edits:
        edit.make(folder)
    return folder


OTHER = Edit("rbee_runtime/__init__.py", "\n# Another release.\n")
"""Changes the release's id and nothing else."""

REASON = "the reason why it ends"
_SAID = f'    import sys, time\n    print("{REASON}", file=sys.stderr, flush=True)\n'

HIVE_EXITS = Edit(
    "rbee_runtime/hive/main.py",
    f'    """Run the command line and leave."""\n{_SAID}    sys.exit(3)\n',
    old='    """Run the command line and leave."""\n',
)
QUEEN_HANGS = Edit(
    "rbee_runtime/queen/main.py",
    f'    """Run the command line and leave."""\n{_SAID}    time.sleep(3600)\n',
    old='    """Run the command line and leave."""\n',
)
WORKER_EXITS = Edit(
    "rbee_runtime/worker/main.py",
    f'    """Run the command line and leave."""\n{_SAID}    sys.exit(3)\n',
    old='    """Run the command line and leave."""\n',
)

NEWER_SCHEMA = Edit(
    "rbee_runtime/queen/schema.py",
    '_STEPS = (*_STEPS, "CREATE TABLE more (x TEXT) STRICT;")\nSCHEMA_VERSION = len(_STEPS)\n',
    old="SCHEMA_VERSION = len(_STEPS)\n",
)
"""A release that moves the queen's database on to the next schema."""
