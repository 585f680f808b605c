"""Virtual environments of peers: what their users install, pinned, kept by content, apart from ours."""

import sys
from pathlib import Path

from rbee_deploy import pins, wheels
from rbee_deploy.artefacts import Say, Target, cache_root, cached_dir, digest_of, say_to_stderr
from rbee_deploy.commands import run


def made(name: str, requirements: str, cache: Path | None = None, *, say: Say = say_to_stderr) -> Path:
    """Return an environment with what a requirement file pins, compiled beforehand; `name` is the peer's."""
    target = Target.this_machine()
    wanted = pins.read(requirements, target)
    root = cache or cache_root()
    key = digest_of(*(pin.line() for pin in wanted), sys.version, sys.platform)[:16]

    def install(draft: Path) -> None:
        for command in install_commands(draft, wheels.download(wanted, target, root, say=say)):
            run(command, title=f"install {name}", say=say)

    return cached_dir(root / "tools" / f"{name}-{key}", install)


def install_commands(folder: Path, wheelhouse: Path) -> tuple[tuple[str, ...], ...]:
    """Return the commands that install the wheels of a folder, which has been checked by hash, into `folder`."""
    uv = str(Path(sys.executable).with_name("uv"))
    return (
        (uv, "venv", "--quiet", "--offline", "--clear", "--relocatable", "--python", sys.executable, str(folder)),
        (
            uv, "pip", "install", "--quiet", "--offline", "--no-index", "--no-deps", "--python",
            str(folder / "bin" / "python"), "--compile-bytecode", "--find-links", str(wheelhouse), "--require-hashes",
            "--requirements", str(wheelhouse / "requirements.txt"),
        ),
    )  # fmt: skip
