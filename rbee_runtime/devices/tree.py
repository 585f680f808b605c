"""The kernel's files (/proc, /sys) as a tree that can be this host's, or a recorded one."""

import os
from collections.abc import Mapping
from typing import Protocol


class Tree(Protocol):
    """Reads by absolute path; what cannot be read is not there."""

    def text(self, path: str) -> str | None:
        """Return a file's text without surrounding white space, or None."""

    def names(self, path: str) -> tuple[str, ...]:
        """Return what a folder holds, sorted; nothing when it cannot be read."""

    def target(self, path: str) -> str:
        """Return the last name of what a link points to, or an empty text."""


class HostTree:
    """This host, or a copy of another's files under `root`."""

    def __init__(self, root: str = "") -> None:
        self._root = root.rstrip("/")

    def text(self, path: str) -> str | None:
        """Return a file's text; a driver that refuses (device asleep, gone) is the same as no file."""
        try:
            with open(self._root + path, "rb", buffering=0) as file:  # noqa: PTH123 - called some hundred times a scan
                return file.read().decode(errors="replace").strip()
        except OSError:
            return None

    def names(self, path: str) -> tuple[str, ...]:
        """Return what a folder holds, sorted."""
        try:
            return tuple(sorted(os.listdir(self._root + path)))  # noqa: PTH208 - as above
        except OSError:
            return ()

    def target(self, path: str) -> str:
        """Return the last name of what a link points to."""
        try:
            return os.readlink(self._root + path).rpartition("/")[2]  # noqa: PTH115 - as above
        except OSError:
            return ""


class RecordedTree:
    """Files and links by path."""

    def __init__(self, texts: Mapping[str, str], links: Mapping[str, str]) -> None:
        self._texts = dict(texts)
        self._links = dict(links)
        self._folders: dict[str, set[str]] = {}
        for path in (*self._texts, *self._links):
            parts = path.split("/")
            for depth in range(1, len(parts)):
                self._folders.setdefault("/".join(parts[:depth]), set()).add(parts[depth])

    def text(self, path: str) -> str | None:
        """Return the recorded text."""
        return self._texts.get(path)

    def names(self, path: str) -> tuple[str, ...]:
        """Return the names for which something below was recorded."""
        return tuple(sorted(self._folders.get(path, ())))

    def target(self, path: str) -> str:
        """Return the recorded target."""
        return self._links.get(path, "")


class WatchedTree:
    """Another tree, with a memory of all that was found in it."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self.texts: dict[str, str] = {}
        self.links: dict[str, str] = {}

    def text(self, path: str) -> str | None:
        """Return and remember a file's text."""
        text = self._tree.text(path)
        if text is not None:
            self.texts[path] = text
        return text

    def names(self, path: str) -> tuple[str, ...]:
        """Return what a folder holds; it is remembered as far as files in it are read."""
        return self._tree.names(path)

    def target(self, path: str) -> str:
        """Return and remember a link's target."""
        target = self._tree.target(path)
        if target:
            self.links[path] = target
        return target


def number(tree: Tree, path: str) -> int | None:
    """Return a file that is one whole number, decimal or 0x…, or None."""
    text = tree.text(path) or ""
    try:
        return int(text, 16) if text.startswith("0x") else int(text)
    except ValueError:
        return None


def pairs(text: str, separator: str | None = None) -> dict[str, str]:
    """Return lines `name<separator>value` as a dict; the first of equal names counts."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        name, value = (*line.split(separator, 1), "")[:2]
        found.setdefault(name.strip(), value.strip())
    return found
