"""NVIDIA GPUs and MIG instances: what NVML said, as devices. Pure but for the probe that asks."""

from typing import Any

from rbee_runtime.devices.nvml import NO_BINDINGS, NO_DRIVER, NO_LIBRARY, Nvml, Raw
from rbee_runtime.devices.reading import Reading, Workers
from rbee_runtime.protocol import DeviceReport

KIND = "nvidia"

# Sentences for codes of nvml.h.
_REFUSED = {
    4: "NVML refuses this user; add it to the groups video and render, or give its unit the NVIDIA devices",
    17: "the operating system blocks NVML's access to the driver; check the unit's DeviceAllow= and /dev/nvidia*",
}
_MISMATCH = 18

_FAULTS = {
    4: "does not let this user read it; add the user to the groups video and render",
    15: "has fallen off the bus; reboot the host, and check power, cooling and slot if it recurs",
    16: "has to be reset; drain it and run `nvidia-smi --gpu-reset -i {index}`",
    28: "is not there any more; check `nvidia-smi -L`",
    999: "fails with an unknown error; see `journalctl -k | grep -i xid`, then reset it or reboot the host",
}


class NvidiaProbe:
    """Reads the NVIDIA GPUs of this host."""

    kind = KIND

    def __init__(self, nvml: Nvml | None = None) -> None:
        self._nvml = nvml or Nvml()

    def read(self, workers: Workers) -> Reading:  # noqa: ARG002 - NVML names all processes
        """Return the GPUs now."""
        return reading(self._nvml.read())


def reading(raw: Raw) -> Reading:
    """Return what `Nvml.read` said as devices, their processes' memory and problems."""
    if raw.get("absent"):
        return Reading(absent=True)
    if "error" in raw:
        return Reading(problems=(_refusal(raw),))
    devices: list[DeviceReport] = []
    processes: dict[str, dict[int, int | None]] = {}
    problems: list[str] = []
    for gpu in raw["gpus"]:
        if gpu.get("error") is not None or fault(gpu):
            problems.append(f"GPU {gpu['index']} {fault(gpu)}")
        elif gpu.get("mig_mode", [0])[0] and not gpu.get("mig"):
            problems.append(_undivided(gpu))
        for part in _parts(gpu):
            devices.append(_device(part, gpu, raw))
            if "processes" in part:
                processes[part["uuid"]] = {int(pid): taken for pid, taken in part["processes"]}
    return Reading(tuple(devices), processes, tuple(problems))


def fault(gpu: Raw) -> str:
    """Return why nothing new should go on a GPU, or an empty text."""
    code = gpu.get("error")
    if code is not None:
        said = gpu.get("said", f"code {code}")
        return _FAULTS.get(code, f"stopped answering: {said}; see `journalctl -k | grep -i xid`").format(**gpu)
    *_, failed = gpu.get("remapped_rows", [0])
    if failed:
        return "has no spare memory rows left for the broken ones; replace it"
    errors = gpu.get("ecc_uncorrected", 0)
    if errors:
        reset = f"drain it and run `nvidia-smi --gpu-reset -i {gpu['index']}`"
        return f"has had {errors} uncorrectable memory errors since its driver was loaded; {reset}"
    return ""


def _parts(gpu: Raw) -> list[Raw]:
    """Return what can be computed on: the GPU, or its MIG instances; nothing that has no id."""
    parts = gpu.get("mig", []) if gpu.get("mig_mode", [0])[0] else [gpu]
    return [part for part in parts if part.get("uuid")]


def _device(part: Raw, gpu: Raw, raw: Raw) -> DeviceReport:
    memory = part.get("memory") or part.get("shared_memory") or {"total": 0, "used": 0}
    name = part.get("name") or gpu.get("name") or "NVIDIA GPU"
    trouble = fault(gpu)
    return DeviceReport(
        id=part["uuid"],
        kind=KIND,
        name=name,
        total=memory["total"],
        used=memory["used"],
        foreign=memory["used"],
        index=gpu["index"],
        healthy=not trouble,
        detail=f"GPU {gpu['index']} {trouble}" if trouble else "",
        attributes=_attributes(part, gpu, raw),
    )


def _attributes(part: Raw, gpu: Raw, raw: Raw) -> dict[str, str]:
    said: dict[str, Any] = {
        "driver": raw.get("driver"),
        "cuda": _cuda(raw.get("cuda")),
        "compute_capability": ".".join(str(number) for number in gpu.get("compute_capability", ())),
        "pci": gpu.get("pci"),
        "temperature": gpu.get("temperature"),
        "power": _watts(gpu.get("power")),
        "power_limit": _watts(gpu.get("power_limit")),
        "utilisation": _ratio(gpu.get("utilisation")),
        "ecc_uncorrected": gpu.get("ecc_uncorrected"),
        "persistence": {0: "off", 1: "on"}.get(gpu.get("persistence", -1)),
        "memory": "shared with the host" if "shared_memory" in part else None,
        "process_memory": "unknown" if any(taken is None for _, taken in part.get("processes", ())) else None,
    }
    if part is not gpu:
        said |= {"parent": gpu.get("uuid"), "mig_slot": part["index"]}
    return {name: str(value) for name, value in said.items() if value is not None and value != ""}


def _refusal(raw: Raw) -> str:
    code = raw["error"]
    if code in (NO_DRIVER, NO_LIBRARY, NO_BINDINGS):
        return _missing(code, raw)
    if code == _MISMATCH:
        loaded = f" ({raw['kernel']})" if raw.get("kernel") else ""
        return (
            f"the NVIDIA driver in the kernel{loaded} and the installed library are of different versions,"
            " as after an upgrade; reboot the host"
        )
    return _REFUSED.get(code, f"NVML cannot be opened: {raw.get('said', code)}; run `nvidia-smi` to see what it says")


def _missing(code: int, raw: Raw) -> str:
    """Return what to install or load where NVML is not there although a card is."""
    undriven = [f"{pci} has {f'the driver {driver}' if driver else 'no driver'}" for pci, driver in raw["cards"]]
    loaded = raw["kernel"] or any(driver == KIND for _, driver in raw["cards"])
    if undriven and not loaded:
        fix = "install NVIDIA's driver and load it (`modprobe nvidia`) to compute on it"
        return f"the NVIDIA GPU at {' and that at '.join(undriven)}; {fix}"
    if code == NO_BINDINGS:
        return f"Python's bindings of NVML cannot be loaded ({raw['said']}); run the deploy again"
    driver = f"the NVIDIA driver {raw['kernel']}".rstrip()
    if code == NO_LIBRARY:
        packages = "libnvidia-ml1 on Debian, libnvidia-compute-… on Ubuntu"
        return f"libnvidia-ml.so.1 of {driver} is missing; install the package that has it ({packages})"
    if loaded:
        return f"NVML does not reach {driver}, which is loaded; make its device files with `nvidia-modprobe -c 0 -u`"
    return "the NVIDIA driver is not loaded; load it with `modprobe nvidia`, and see `journalctl -k | grep -i nvidia`"


def _undivided(gpu: Raw) -> str:
    index = gpu["index"]
    return (
        f"GPU {index} is in MIG mode and has no instances; make some with `nvidia-smi mig -i {index} -cgi PROFILE -C`,"
        f" or end the mode with `nvidia-smi -i {index} -mig 0`"
    )


def _cuda(version: int | None) -> str:
    """Return `12.4` of NVML's 12040."""
    return "" if version is None else f"{version // 1000}.{version % 1000 // 10}"


def _ratio(percent: int | None) -> str:
    return "" if percent is None else f"{percent / 100:g}"


def _watts(milliwatts: int | None) -> str:
    return "" if milliwatts is None else f"{milliwatts / 1000:g}"
