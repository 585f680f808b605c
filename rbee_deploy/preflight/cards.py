"""Whether NVIDIA cards can be used: driver, its libraries, what containers are told of them."""

from collections.abc import Iterator

from rbee_deploy.facts.equipment import NVIDIA_HOOK
from rbee_deploy.modes import ContainerEngine, Mode
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity, listed
from rbee_deploy.versions import version

LEAST_TOOLKIT = "1.17.8"
"""Before it, an image's environment ran code as root on the host (CVE-2025-23266)."""

_GENERATE = "nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"
_BY_ID = "--device-name-strategy=index --device-name-strategy=uuid"
"""Rbee asks for cards by their ids, which stay when another card is taken out; older toolkits name indices alone."""

_CDI_ON = 'write {"features": {"cdi": true}} into /etc/docker/daemon.json and restart docker'


def _driver_is_loaded(case: Case) -> Iterator[Finding]:
    nvidia = case.facts.nvidia
    count = len(nvidia.cards)
    cards = "an NVIDIA card" if count == 1 else f"{count} NVIDIA cards"
    if nvidia.module is None:
        fix = "run modprobe nvidia and look at its words in dmesg" if nvidia.libraries else "install NVIDIA's driver"
        yield Finding(f"it has {cards} and no driver of NVIDIA's is loaded", f"{fix}; workers see no such device")
    elif not nvidia.has_control:
        yield Finding(
            f"it has {cards} and no /dev/nvidiactl", "run nvidia-smi there as root, which makes the device files"
        )


def _driver_matches_libraries(case: Case) -> Iterator[Finding]:
    nvidia = case.facts.nvidia
    if nvidia.module and nvidia.libraries and nvidia.module not in nvidia.libraries:
        yield Finding(
            f"its loaded NVIDIA driver is {nvidia.module} and the libraries are {listed(nvidia.libraries)}",
            "reboot it, so that the driver that was installed last is the one that runs",
        )


def _one_spec_is_there(case: Case) -> Iterator[Finding]:
    specs = case.facts.cdi
    if len(specs) > 1:
        stale = next((spec for spec in specs if spec.driver and spec.driver != case.facts.nvidia.module), specs[0])
        yield Finding(
            f"{listed([spec.path for spec in specs])} each describe its NVIDIA cards to containers",
            f"remove the one that nothing refreshes, such as {stale.path}",
        )


def _specs_fit(case: Case) -> Iterator[Finding]:
    for spec in case.facts.cdi:
        if not int(spec.mode or "0", 8) & 0o004:
            yield Finding(
                f"{spec.path} has mode {spec.mode} and only root can read it",
                f"run chmod 644 {spec.path}, or containers of other users find no card",
            )
        if spec.driver and case.facts.nvidia.module and spec.driver != case.facts.nvidia.module:
            yield Finding(
                f"{spec.path} was made for driver {spec.driver} and {case.facts.nvidia.module} is loaded",
                f"make it again: nvidia-ctk cdi generate --output={spec.path}",
            )


def _spec_is_there(case: Case) -> Iterator[Finding]:
    if not case.facts.cdi:
        yield Finding(
            "nothing describes its NVIDIA cards to containers",
            f"install the package nvidia-container-toolkit {LEAST_TOOLKIT} or newer and run {_GENERATE}",
        )


def _cards_are_named(case: Case) -> Iterator[Finding]:
    specs = case.facts.cdi
    names = {name for spec in specs for name in spec.names}
    # A card that is divided is not named itself: its parts are.
    divided = any(name.startswith("MIG-") for name in names)
    missing = [] if divided else [uuid for uuid in case.facts.nvidia.uuids if uuid not in names]
    if case.host.mode == Mode.CONTAINER and "all" not in names:
        missing.append("all")
    if specs and missing:
        files = listed([spec.path for spec in specs])
        yield Finding(
            f"no device in {files} is called {' or '.join(missing)}, and containers are given cards by these names",
            f"make it again: nvidia-ctk cdi generate {_BY_ID} --output={specs[0].path}",
        )


def _docker_gives_cards(case: Case) -> Iterator[Finding]:
    said, docker = case.facts.engine or (), case.host.container_engine is ContainerEngine.DOCKER
    if docker and "answers" in said and "cdi" not in said and NVIDIA_HOOK not in case.facts.programs:
        yield Finding(f"its Docker gives no devices by CDI, and there is no {NVIDIA_HOOK} either", _CDI_ON)


def _toolkit_is_safe(case: Case) -> Iterator[Finding]:
    have = case.facts.programs.get("nvidia-ctk", "")
    if have and version(have) < version(LEAST_TOOLKIT):
        yield Finding(
            f"nvidia-container-toolkit {have} is older than {LEAST_TOOLKIT}, and an image can become root with it",
            "upgrade it from NVIDIA's package source",
        )


DRIVER = Check(
    id="gpu-driver",
    title="The NVIDIA driver is loaded",
    looks_at="NVIDIA display devices on the PCI bus, `/proc/driver/nvidia/version` and `/dev/nvidiactl`",
    fails_when="a card is there and the driver or its device is not",
    why="the hive offers what the driver shows; without it the card is not there",
    fix="install the driver of the distribution or of NVIDIA, and reboot",
    find=_driver_is_loaded,
    severity=Severity.HINT,
    scope=Scope.GPU,
)
LIBRARIES = Check(
    id="gpu-driver-match",
    title="Driver and libraries are of one version",
    looks_at="the loaded driver's version and the versions of `libnvidia-ml.so` on disk",
    fails_when="the loaded version is none of them, as after an upgrade without a reboot",
    why="NVIDIA's libraries refuse to speak to a driver of another version: no card is found",
    fix="reboot the host",
    find=_driver_matches_libraries,
    severity=Severity.HINT,
    scope=Scope.GPU,
)
ONE_SPEC = Check(
    id="cdi-one-spec",
    title="One CDI specification describes the cards",
    looks_at="files for `nvidia.com/gpu` in `/etc/cdi` and `/var/run/cdi`",
    fails_when="there is more than one",
    why="the older one goes stale, and container engines then say `unresolvable CDI devices`",
    fix="remove the one that nothing refreshes",
    find=_one_spec_is_there,
    severity=Severity.HINT,
    scope=Scope.HIVE,
)
SPECS = Check(
    id="cdi-spec",
    title="CDI specifications are readable and current",
    looks_at="mode and driver version of those files",
    fails_when="others than root cannot read one, or it was made for another driver than the loaded one",
    why="a container gets no card, or libraries that are no longer there",
    fix="make it again with `nvidia-ctk cdi generate`, mode 0644",
    find=_specs_fit,
    severity=Severity.HINT,
    scope=Scope.HIVE,
)
SPEC_THERE = Check(
    id="cdi-present",
    title="Containers can be given cards",
    looks_at="the same files",
    fails_when="there is none",
    why="cards are given to containers by CDI only",
    fix=f"install nvidia-container-toolkit and run `{_GENERATE}`",
    find=_spec_is_there,
    scope=Scope.GPU_CONTAINER,
)
NAMES = Check(
    id="cdi-devices",
    title="CDI specifications name each card",
    looks_at="names of devices in those files, and ids of cards in `/proc/driver/nvidia/gpus`",
    fails_when="a card is not named by its id, or with `mode` `container` there is no device `all`",
    why="a worker gets its cards by their ids, a hive in a container all of them: else `unresolvable CDI devices`",
    fix=f"make it again with `nvidia-ctk cdi generate {_BY_ID}`",
    find=_cards_are_named,
    scope=Scope.GPU_CONTAINER,
)
DOCKER_GIVES = Check(
    id="docker-cdi",
    title="Docker can give cards to containers",
    looks_at="folders of CDI specifications in `docker info`, and whether NVIDIA's hook for Docker is installed",
    fails_when="Docker looks into no such folder, as older ones unless told to, and the hook is not there",
    why="without either it starts no container that gets a card",
    fix=_CDI_ON.replace('{"features": {"cdi": true}}', '`{"features": {"cdi": true}}`'),
    find=_docker_gives_cards,
    scope=Scope.GPU_CONTAINER,
)
TOOLKIT_HINT = Check(
    id="nvidia-toolkit",
    title="NVIDIA's container toolkit is not an open door",
    looks_at="`nvidia-ctk --version`",
    fails_when=f"it is there and older than {LEAST_TOOLKIT}",
    why="with older ones an image can run its own code as root on the host (CVE-2025-23266); bare hosts do not use it",
    fix="upgrade it",
    find=_toolkit_is_safe,
    severity=Severity.HINT,
    scope=Scope.BARE,
)
TOOLKIT = Check(
    id="nvidia-toolkit-floor",
    title="NVIDIA's container toolkit is safe to use",
    looks_at="`nvidia-ctk --version`",
    fails_when=f"it is older than {LEAST_TOOLKIT}",
    why="an image can run its own code as root on the host (CVE-2025-23266)",
    fix="upgrade it",
    find=_toolkit_is_safe,
    scope=Scope.GPU_CONTAINER,
)
