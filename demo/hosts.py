"""The demo's two hosts: made once, found again, brought back after a reboot of this machine."""

import subprocess
import sys

from demo.build import missing_compiler, must_compile
from demo.processes import running
from demo.story import DemoError, Story
from tests.lab import Lab, ensure_image, ensure_packages

LABEL = "demo"
IMAGE = "trixie"
QUEEN, GPU_HOST = "queen", "gpu1"


def prepare(story: Story) -> Lab:
    """Return the lab with both hosts up, while the compiler works beside it on what they will get."""
    install_packages(story)
    with running([sys.executable, "-m", "demo", "build"]) as building:
        ensure_image(IMAGE)
        lab = bring_up(story)
        _finish(building, story)
    return lab


def install_packages(story: Story) -> None:
    """Install what hosts and the compiler need and this machine lacks."""
    for package in ensure_packages(missing_compiler()):
        story.tell(f"installed {package}")


def bring_up(story: Story) -> Lab:
    """Return the demo's lab with its hosts running."""
    lab = existing() or Lab.create(LABEL, persistent=True)
    lab.resume()
    for name in (QUEEN, GPU_HOST):
        if name not in lab.hosts:
            lab.add_host(name, image=IMAGE)
        story.tell(f"host {name} is up at {lab.hosts[name].address}")
    return lab


def existing() -> Lab | None:
    """Return the lab that an earlier run of the demo left, if any."""
    found = [lab for lab in Lab.list() if (state := lab.state()).label == LABEL and state.persistent]
    return found[0] if found else None


def _finish(building: subprocess.Popen[bytes], story: Story) -> None:
    if building.poll() is None and must_compile():
        story.tell("waiting for the engine to be compiled")
    if building.wait() != 0:
        raise DemoError("the artefacts could not be built: see the message above")
    story.tell("release, engine and model are ready")
