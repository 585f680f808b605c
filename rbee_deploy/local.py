"""The same artefacts on this machine, without root: for a laptop's fleet of one and for tests."""

import sys
from pathlib import Path

from rbee_deploy import engines
from rbee_deploy.artefacts import Say, Target, cache_root, locked, say_to_stderr
from rbee_deploy.commands import run
from rbee_runtime import ports

DEFAULT_VARIANT = "cpu-x86_64_v3"


def install_engine(
    engines_dir: Path | None = None,
    *,
    name: str = "llama-cpp",
    variant: str = DEFAULT_VARIANT,
    cache: Path | None = None,
    say: Say = say_to_stderr,
) -> Path:
    """Return the folder of the engine, unpacked for the running Python under `engines_dir` (the user's by default)."""
    artefact = engines.build_engine(name, variant, Target.this_machine(), cache or cache_root(), say=say)
    folder = (engines_dir or ports.user_root() / "engines") / artefact.id
    with locked(folder):
        if not (folder / "engine.json").is_file():
            for command in engines.install_script(str(artefact.archive), str(folder), python=sys.executable):
                run(command, title=f"unpack {artefact.id}", say=say)
    return folder
