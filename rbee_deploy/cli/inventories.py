"""Reading an inventory file before pyinfra does, so that a mistake in it is one sentence."""

import runpy
import traceback
from pathlib import Path
from typing import Any

from rbee_deploy.errors import DeployError
from rbee_deploy.inventory import Placement
from rbee_deploy.site import Site


def site_of(inventory: str) -> Site:
    """Return the fleet that an inventory file declares."""
    if not Path(inventory).is_file():
        raise DeployError(f"there is no inventory file {inventory}; give one by -i")
    names = _names(inventory)
    groups = (value for value in names.values() if isinstance(value, list))
    for group in groups:
        for entry in group:
            placed = entry[1].get("rbee") if isinstance(entry, tuple) and len(entry) == 2 else None
            if isinstance(placed, Placement):
                return placed.site
    raise DeployError(f"{inventory} declares no fleet; begin with queen, hives = fleet(…)")


def _names(inventory: str) -> dict[str, Any]:
    """Run an inventory file; what goes wrong in it is named by its line there."""
    try:
        return runpy.run_path(inventory)
    except SyntaxError as error:
        raise DeployError(f"{error.filename}, line {error.lineno}: {error.msg}") from error
    except DeployError:
        raise
    except Exception as error:
        lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == inventory]
        where = f"{inventory}, line {lines[-1]}" if lines else inventory
        raise DeployError(f"{where}: {type(error).__name__}: {error}") from error
