"""Folders of links, in which the content of the store has the names that an engine expects."""

import contextlib
import os
import shutil
from pathlib import Path

from rbee_runtime.models.layout import Layout, sentences
from rbee_runtime.protocol import ModelReport


def build(layout: Layout, report: ModelReport) -> None:
    """Make or mend the view of a model; links are relative, so that the store can be mounted anywhere."""
    view = layout.view(report.name)
    with sentences(f"cannot make the folder of links {view}"):
        for file in report.files:
            link, target = view / file.name, layout.blob(file.sha256)
            link.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            text = os.path.relpath(target, link.parent)
            if not (link.is_symlink() and str(link.readlink()) == text):
                draft = link.with_name(f".{link.name}.{os.getpid()}")
                draft.unlink(missing_ok=True)
                draft.symlink_to(text)
                draft.replace(link)
        wanted = {file.name for file in report.files}
        for path in view.rglob("*"):
            if path.is_symlink() and path.relative_to(view).as_posix() not in wanted:
                path.unlink()


def drop(layout: Layout, name: str) -> None:
    """Remove the view of a model."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(layout.view(name))


def engine_path(layout: Layout, report: ModelReport, *, main: str = "") -> Path:
    """Return what an engine is given: the content of a single file, the `main` one of several GGUF, or the folder.

    `main` is what the model's facts say; where they are not kept, it is the first by name.
    """
    if len(report.files) == 1:
        return layout.blob(report.files[0].sha256)
    view = layout.view(report.name)
    parts = sorted(file.name for file in report.files if file.name.endswith(".gguf") and "mmproj" not in file.name)
    return view / (main if main in parts else parts[0]) if parts else view
