"""Reads NVIDIA's management library (NVML) into plain data, and judges nothing.

The data are `{driver, cuda, kernel, gpus: [...]}`, or `{absent: true}`, or `{error: code, said, kernel}` when NVML
itself refuses; when it is not there although a card is, `cards` has [PCI address, driver] of each. A GPU is a dict
with the keys of `_FIELDS` that it supports, `index`, `processes` as [pid, bytes or None], `mig` (its instances) and
`error` (a code of NVML) when it stopped answering. Units are NVML's: bytes, °C, mW.
"""

import importlib
import re
import time
from collections.abc import Callable
from typing import Any

import psutil

from rbee_runtime.devices import pci
from rbee_runtime.devices.tree import HostTree, Tree

Raw = dict[str, Any]

VENDOR = 0x10DE

_SIGNS = ("/proc/driver/nvidia", "/dev/nvidiactl")
"""One of these is there wherever a driver is or was loaded."""

_WSL = "/dev/dxg"
"""Stands for graphics of any maker on WSL. Where neither it nor a sign is, NVML's library is not even loaded."""

_LENT = "vfio-pci"
"""Has the cards that virtual machines got; they are not this host's."""

REOPEN_SECONDS = 30.0
"""Opening NVML wakes every GPU, which takes seconds when one is lost: not at each scan."""

# Codes of nvml.h.
_UNSUPPORTED = 3
NO_DRIVER, NO_LIBRARY = 9, 12
_GONE = {15, 16, 28}  # GPU is lost, reset required, GPU not found
_UNKNOWN = 999
NO_BINDINGS = -1
"""Ours, no code of NVML: Python's bindings are missing."""

_SESSION = {1, 9, 15, 18, 999}  # uninitialised, driver not loaded, GPU is lost, version mismatch, unknown

_VERSION = re.compile(r"\b\d{3,}\.\d+(?:\.\d+)?\b")


def _memory(nvml: Any, gpu: Any) -> Raw:
    memory = nvml.nvmlDeviceGetMemoryInfo(gpu)
    return {"total": memory.total, "used": memory.used}


def _temperature(nvml: Any, gpu: Any) -> int:
    # The older call goes with the next major version of CUDA, and older drivers lack the newer one.
    try:
        return int(nvml.nvmlDeviceGetTemperatureV(gpu, nvml.NVML_TEMPERATURE_GPU))
    except (AttributeError, nvml.NVMLError):
        return int(nvml.nvmlDeviceGetTemperature(gpu, nvml.NVML_TEMPERATURE_GPU))


def _uncorrected(nvml: Any, gpu: Any) -> int:
    kind, since_load = nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC
    return int(nvml.nvmlDeviceGetTotalEccErrors(gpu, kind, since_load))


def _utilisation(nvml: Any, gpu: Any) -> int:
    return int(nvml.nvmlDeviceGetUtilizationRates(gpu).gpu)


def _processes(nvml: Any, gpu: Any) -> list[list[int | None]]:
    """Return [pid, bytes or None]; a process that both computes and draws is in both lists with all its memory."""
    listed = list(nvml.nvmlDeviceGetComputeRunningProcesses(gpu))
    try:
        listed += nvml.nvmlDeviceGetGraphicsRunningProcesses(gpu)
    except nvml.NVMLError as error:
        if error.value in _GONE:
            raise
    found: dict[int, int | None] = {}
    for process in listed:
        sizes = (process.usedGpuMemory, found.get(process.pid))
        found[process.pid] = max((size for size in sizes if size is not None), default=None)
    return [[pid, size] for pid, size in found.items()]


_FIELDS: dict[str, Callable[[Any, Any], Any]] = {
    "uuid": lambda nvml, gpu: nvml.nvmlDeviceGetUUID(gpu),
    "name": lambda nvml, gpu: nvml.nvmlDeviceGetName(gpu),
    "pci": lambda nvml, gpu: nvml.nvmlDeviceGetPciInfo(gpu).busId,
    "memory": _memory,
    "compute_capability": lambda nvml, gpu: list(nvml.nvmlDeviceGetCudaComputeCapability(gpu)),
    "mig_mode": lambda nvml, gpu: list(nvml.nvmlDeviceGetMigMode(gpu)),
    "temperature": _temperature,
    "power": lambda nvml, gpu: nvml.nvmlDeviceGetPowerUsage(gpu),
    "power_limit": lambda nvml, gpu: nvml.nvmlDeviceGetEnforcedPowerLimit(gpu),
    "utilisation": _utilisation,
    "ecc_uncorrected": _uncorrected,
    "remapped_rows": lambda nvml, gpu: list(nvml.nvmlDeviceGetRemappedRows(gpu)),
    "persistence": lambda nvml, gpu: nvml.nvmlDeviceGetPersistenceMode(gpu),
    "processes": _processes,
}
_ESSENTIAL = ("uuid", "memory")
_MIG_FIELDS = ("uuid", "name", "memory", "processes")


class Nvml:
    """A session with NVML: opened once, and anew after an error that ended it."""

    def __init__(
        self,
        load: Callable[[], Any] | None = None,
        *,
        clock: Callable[[], float] = time.monotonic,
        tree: Tree | None = None,
    ) -> None:
        self._load = load or _library
        self._clock = clock
        self._tree = tree or HostTree()
        self._nvml: Any = None
        self._broken_since: float | None = None

    def read(self) -> Raw:
        """Return everything that NVML says now."""
        if not any(_there(self._tree, sign) for sign in (*_SIGNS, _WSL)):
            return self._missing(NO_DRIVER, "no NVIDIA driver is loaded")
        try:
            nvml = self._load()
        except ImportError as error:
            return self._missing(NO_BINDINGS, str(error))
        try:
            self._open(nvml)
            raw = self._all(nvml)
        except nvml.NVMLError as error:
            self._close()
            if error.value in (NO_DRIVER, NO_LIBRARY):
                return self._missing(error.value, str(error))
            return {"error": error.value, "said": str(error), "kernel": self._kernel()}
        codes = {gpu.get("error") for gpu in raw["gpus"]}
        if self._broken_since is None and not codes.isdisjoint(_SESSION):
            self._broken_since = self._clock()
        return raw

    def _missing(self, code: int, said: str) -> Raw:
        """Return why NVML is not there, or that nothing here shows that it should be."""
        cards = [list(found) for found in pci.displays(self._tree, VENDOR) if found[1] != _LENT]
        if not cards and not any(_there(self._tree, sign) for sign in _SIGNS):
            return {"absent": True}
        return {"error": code, "said": said, "kernel": self._kernel(), "cards": cards}

    def _kernel(self) -> str:
        found = _VERSION.search(self._tree.text("/proc/driver/nvidia/version") or "")
        return found.group() if found else ""

    def _open(self, nvml: Any) -> None:
        if self._broken_since is not None and self._clock() - self._broken_since >= REOPEN_SECONDS:
            self._close()
        if self._nvml is None:
            nvml.nvmlInit()
            self._nvml = nvml

    def _close(self) -> None:
        nvml, self._nvml, self._broken_since = self._nvml, None, None
        if nvml is not None:
            try:
                nvml.nvmlShutdown()
            except nvml.NVMLError:
                return  # what is being closed was broken already

    def _all(self, nvml: Any) -> Raw:
        return {
            "driver": nvml.nvmlSystemGetDriverVersion(),
            "cuda": nvml.nvmlSystemGetCudaDriverVersion(),
            "kernel": self._kernel(),
            "gpus": [_gpu(nvml, index) for index in range(nvml.nvmlDeviceGetCount())],
        }


def _gpu(nvml: Any, index: int) -> Raw:
    raw: Raw = {"index": index}
    try:
        gpu = nvml.nvmlDeviceGetHandleByIndex(index)
        refused = _fill(nvml, gpu, raw, tuple(_FIELDS)).get("memory")
        if raw.get("mig_mode", [0])[0]:
            # What the instances have counts; that of the whole GPU is for administrators only.
            raw["mig"] = _instances(nvml, gpu)
        elif refused is not None and refused["error"] != _UNSUPPORTED:
            raw |= refused
        elif refused is not None:
            # GPUs that share the host's memory (GB10) have none of their own to ask for.
            memory = psutil.virtual_memory()
            raw["shared_memory"] = {"total": memory.total, "used": memory.total - memory.available}
    except nvml.NVMLError as error:
        raw |= _said(error)
    return raw


def _instances(nvml: Any, gpu: Any) -> list[Raw]:
    found = []
    for slot in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu)):
        try:
            instance = nvml.nvmlDeviceGetMigDeviceHandleByIndex(gpu, slot)
        except nvml.NVMLError as error:
            if error.value in _GONE:
                raise
            continue  # no instance in this slot
        raw: Raw = {"index": slot}
        _fill(nvml, instance, raw, _MIG_FIELDS)
        found.append(raw)
    return found


def _fill(nvml: Any, gpu: Any, raw: Raw, names: tuple[str, ...]) -> dict[str, Raw]:
    """Put what a device supports into `raw` and return what it said of the rest; raises when the device is gone."""
    refused: dict[str, Raw] = {}
    for name in names:
        try:
            raw[name] = _FIELDS[name](nvml, gpu)
        except nvml.NVMLError as error:
            if error.value in _GONE or (error.value == _UNKNOWN and name in _ESSENTIAL):
                raise
            refused[name] = _said(error)
        except AttributeError:
            continue  # a version of the bindings without this call
    return refused


def _said(error: Any) -> Raw:
    return {"error": error.value, "said": str(error)}


def _library() -> Any:
    return importlib.import_module("pynvml")


def _there(tree: Tree, path: str) -> bool:
    folder, _, name = path.rpartition("/")
    return name in tree.names(folder)
