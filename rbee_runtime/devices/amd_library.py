"""What AMD's management library (amdsmi, which comes with ROCm and not with us) knows beyond the kernel's files."""

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any


@dataclass(frozen=True)
class Facts:
    """One GPU; memory in bytes. What the library does not say is None or empty."""

    name: str = ""
    driver: str = ""
    total: int | None = None
    used: int | None = None
    uncorrected: int | None = None
    processes: Mapping[int, int | None] | None = None


def read(load: Callable[[], Any] | None = None) -> dict[str, Facts]:
    """Return what the library says by PCI address; nothing where it is missing or refuses."""
    library = (load or _library)()
    if library is None:
        return {}
    try:
        library.amdsmi_init()
    except library.AmdSmiException:
        return {}
    try:
        return _all(library)
    except library.AmdSmiException:
        return {}
    finally:
        _ask(library, library.amdsmi_shut_down)


def _all(library: Any) -> dict[str, Facts]:
    found = {}
    for gpu in library.amdsmi_get_processor_handles():
        address = _ask(library, library.amdsmi_get_gpu_device_bdf, gpu)
        if address is not None:
            found[str(address).lower()] = _facts(library, gpu)
    return found


def _facts(library: Any, gpu: Any) -> Facts:
    asic = _fields(_ask(library, library.amdsmi_get_gpu_asic_info, gpu))
    driver = _fields(_ask(library, library.amdsmi_get_gpu_driver_info, gpu))
    errors = _fields(_ask(library, library.amdsmi_get_gpu_total_ecc_count, gpu))
    kind = library.AmdSmiMemoryType.VRAM
    return Facts(
        name=_word(asic.get("market_name")),
        driver=_word(driver.get("driver_version")),
        total=_whole(_ask(library, library.amdsmi_get_gpu_memory_total, gpu, kind)),
        used=_whole(_ask(library, library.amdsmi_get_gpu_memory_usage, gpu, kind)),
        uncorrected=_whole(errors.get("uncorrectable_count")),
        processes=_processes(_ask(library, library.amdsmi_get_gpu_process_list, gpu)),
    )


def _processes(listed: Any) -> dict[int, int | None] | None:
    """Return bytes by pid; None for forms of older releases (opaque handles) and where nobody is seen.

    An empty list also means that this user may not look, so the kernel's files have the word then.
    """
    listed = listed if isinstance(listed, list | tuple) else ()
    rows = [row for row in listed if isinstance(row, dict) and isinstance(row.get("pid"), int)]
    found = {row["pid"]: _whole(_fields(row.get("memory_usage")).get("vram_mem")) for row in rows}
    return found or None


def _ask(library: Any, call: Callable[..., Any], *arguments: Any) -> Any:
    """Return an answer, or None where the GPU or this release of the library has none."""
    try:
        return call(*arguments)
    except (library.AmdSmiException, KeyError, TypeError, ValueError):
        return None


def _fields(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _word(value: Any) -> str:
    return value if isinstance(value, str) and value != "N/A" else ""


def _whole(value: Any) -> int | None:
    return value if isinstance(value, int) else None


@cache
def _library() -> ModuleType | None:
    # The bindings load a shared library when imported, and fail in many ways without it.
    try:
        return importlib.import_module("amdsmi")
    except Exception:  # noqa: BLE001 - as above
        return None
