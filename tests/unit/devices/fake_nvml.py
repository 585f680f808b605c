"""A library with NVML's calls, without a GPU: each one is a dict of answers by call."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"code {value}")
        self.value = value


class FakeNvml:
    NVML_TEMPERATURE_GPU = 0
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED = 1
    NVML_VOLATILE_ECC = 0
    NVMLError = NVMLError

    def __init__(self, *gpus: dict[str, Any], init: int = 0) -> None:
        self.gpus = list(gpus)
        self.init = init
        self.opened = 0
        self.closed = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's name
        if self.init:
            raise NVMLError(self.init)
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802 - NVML's name
        self.closed += 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802 - NVML's name
        return "550.54.15"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802 - NVML's name
        return 12040

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802 - NVML's name
        return len(self.gpus)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any:  # noqa: N802 - NVML's name
        return answer(self.gpus[index], "HandleByIndex", self.gpus[index])

    def nvmlDeviceGetMigDeviceHandleByIndex(self, gpu: Any, slot: int) -> Any:  # noqa: N802 - NVML's name
        found = gpu["slots"][slot]
        if found is None:
            raise NVMLError(7)
        return found

    def nvmlDeviceGetMaxMigDeviceCount(self, gpu: Any) -> int:  # noqa: N802 - NVML's name
        return len(gpu["slots"])

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = name.removeprefix("nvmlDeviceGet")
        if call == name:
            raise AttributeError(name)
        return lambda gpu, *_: answer(gpu, call, gpu.get(call))


def answer(gpu: dict[str, Any], call: str, value: Any) -> Any:
    code = gpu.get("errors", {}).get(call, gpu.get("all_fail"))
    if code:
        raise NVMLError(code)
    if value is None:
        raise NVMLError(3)
    return value


def process(pid: int, size: int | None) -> Any:
    return SimpleNamespace(pid=pid, usedGpuMemory=size)


def gpu(uuid: str = "GPU-1", **more: Any) -> dict[str, Any]:
    """Return a GPU that supports the least that NVML has; `errors` is codes by call, `all_fail` one for all."""
    memory = SimpleNamespace(total=1000, used=300)
    return {"UUID": uuid, "Name": "NVIDIA Test", "MemoryInfo": memory, "ComputeRunningProcesses": []} | more
