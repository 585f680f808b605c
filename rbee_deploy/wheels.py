"""Getting pinned wheels: pip downloads (its own settings say from where), hashes decide what is accepted."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from rbee_deploy import pins
from rbee_deploy.artefacts import Say, Target, cache_root, cached_dir, digest_of, say_to_stderr
from rbee_deploy.commands import run
from rbee_deploy.pins import Pin

PIP = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input")


def download(
    wanted: Sequence[Pin], target: Target | None, cache: Path | None = None, *, say: Say = say_to_stderr
) -> Path:
    """Return a folder with one wheel per pin, for `target` or, when None, for the running interpreter."""
    text = "".join(f"{pin.line()}\n" for pin in wanted)
    label = target.label if target is not None else "any"
    final = (cache or cache_root()) / "wheels" / f"{label}-{digest_of(label, text)[:16]}"

    def fetch(draft: Path) -> None:
        listing = draft / "requirements.txt"
        listing.write_text(text, encoding="utf-8")
        run(download_command(listing, draft, target), title=f"download {_titled(wanted)}", say=say)

    return cached_dir(final, fetch)


def _titled(wanted: Sequence[Pin]) -> str:
    return f"{wanted[0].name} {wanted[0].version}" if len(wanted) == 1 else f"{len(wanted)} pinned wheels"


def download_command(listing: Path, folder: Path, target: Target | None) -> tuple[str, ...]:
    """Return the pip command that fetches the wheels of `listing` into `folder`."""
    tags = () if target is None else _target_options(target)
    return (
        *PIP, "download", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", *tags,
        "--dest", str(folder), "--requirement", str(listing),
    )  # fmt: skip


def _target_options(target: Target) -> tuple[str, ...]:
    abi = f"cp{target.python.replace('.', '')}"
    abis = [word for tag in (abi, "abi3", "none") for word in ("--abi", tag)]
    platforms = [word for tag in platform_tags(target) for word in ("--platform", tag)]
    return ("--python-version", target.python, "--implementation", "cp", *abis, *platforms)


def platform_tags(target: Target) -> tuple[str, ...]:
    """Return the wheel platform tags that a host of `target` can use, best first."""
    newest = int(target.glibc.split(".")[1])
    modern = tuple(f"manylinux_2_{minor}_{target.arch}" for minor in range(newest, 4, -1))
    return (*modern, f"manylinux2014_{target.arch}", f"manylinux2010_{target.arch}", f"linux_{target.arch}")


def toolbox(requirements: str, cache: Path | None = None, *, say: Say = say_to_stderr) -> Path:
    """Return a folder with the pinned build tools of a requirement file: modules in it, programs in its bin/."""
    wanted = pins.read(requirements, Target.this_machine())
    text = "".join(f"{pin.line()}\n" for pin in wanted)
    # Not of the environment that happens to run this: whoever removes it must not break the tools of all others.
    base = str(Path(sys.executable).resolve())
    key = digest_of(text, sys.version, sys.platform, base)[:16]

    def install(draft: Path) -> None:
        listing = draft / "requirements.txt"
        listing.write_text(text, encoding="utf-8")
        command = (
            *PIP, "install", "--quiet", "--no-deps", "--require-hashes", "--only-binary=:all:", "--no-compile",
            "--target", str(draft), "--requirement", str(listing),
        )  # fmt: skip
        run(command, title=f"install build tools of {requirements}", say=say)
        for script in (draft / "bin").glob("*"):
            _run_by(base, script)

    return cached_dir((cache or cache_root()) / "tools" / key, install)


def _run_by(python: str, script: Path) -> None:
    """Have a script that pip made for the running interpreter run by another one; other programs stay."""
    content = script.read_bytes()
    if content.startswith(b"#!"):
        script.write_bytes(content.replace(sys.executable.encode(), python.encode(), 1))


def tool_environment(tools: Path) -> dict[str, str]:
    """Return the variables that put a toolbox in front for a child process."""
    return {"PYTHONPATH": str(tools), "PATH": f"{tools / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"}
