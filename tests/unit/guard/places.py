"""A host's folders and settings around a guard, all in a test's own folder."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.config import EngineKind, GuardConfig

IMAGE = "registry.example/worker:1"
CALLERS = ("10.0.0.0/8", "192.168.0.0/16")
FLEET, HIVE, BOOT = "f", "h1", "0b00-7"
# Whoever runs the tests may give files to others only as root.
ACCOUNT = Account(65534, 65534, (44, 991)) if os.geteuid() == 0 else Account(os.geteuid(), os.getegid(), (44, 991))


@dataclass(frozen=True)
class Places:
    """The folders of one made-up host."""

    root: Path

    @property
    def models(self) -> Path:
        return self.root / "models"

    @property
    def engines(self) -> Path:
        return self.root / "engines"

    @property
    def cache(self) -> Path:
        return self.root / "cache"

    @property
    def handover(self) -> Path:
        return self.root / "hive/containers"

    @property
    def handed(self) -> Path:
        return self.root / "handed"

    def config(self, kind: EngineKind, **changed: Any) -> GuardConfig:
        """Return the settings of a guard here."""
        settings = GuardConfig(
            engine=kind,
            engine_socket=self.root / "engine.sock",
            fleet=FLEET,
            hive=HIVE,
            images=(IMAGE,),
            models=(self.models, self.engines, self.cache),
            handover=self.handover,
            handed=self.handed,
            network="rbee-workers",
            ports=(9000, 9099),
            user="rbee-worker",
            callers=CALLERS,
            groups=("rbee-models",),
        )
        return replace(settings, **changed)


def furnish(root: Path) -> Places:
    """Make the folders."""
    places = Places(root)
    for folder in (places.models, places.engines, places.cache, places.handover):
        folder.mkdir(parents=True)
    places.handed.mkdir(mode=0o700)
    return places


def hand_over(places: Places, worker: str, **files: str) -> Path:
    """Write what a hive hands to a worker."""
    folder = places.handover / worker
    folder.mkdir(mode=0o700)
    for name, text in ({"launch_json": "{}"} | files).items():
        path = folder / name.replace("_", ".")
        path.write_text(text)
        path.chmod(0o400)
    return folder
