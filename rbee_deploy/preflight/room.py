"""Whether what is to be brought fits: engine and processor, disk, memory, the place of the models."""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath

from rbee_deploy.modes import ContainerEngine
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity, amount, listed
from rbee_deploy.versions import version
from rbee_runtime import ports

SPARE_DISK = 1 << 30
"""Of what is copied, beside it."""
STATE_DISK = 64 << 20
"""For what activations note and keep: contents of files, copies of the queen's database."""
ETC_DISK = 1 << 20
"""For configuration, certificates and units."""
RELEASE_GROWTH = 4
"""Times its archive: the archive itself, its wheels and the environment made of them."""
ENGINE_GROWTH = 2
"""Times its archive: the archive and what it unpacks to."""
IMAGE_GROWTH = 2
"""Times its archive, in the engine's own store: what it writes while it loads one, and what it keeps."""
IMAGES = {
    ContainerEngine.PODMAN: "/var/lib/containers",
    ContainerEngine.DOCKER: "/var/lib/docker",
    ContainerEngine.ROOTLESS: str(ports.ENGINE_STATE),
}
"""Where engines keep them unless they are told otherwise."""
MODEL_MEMORY = 1.2
"""Times its files: weights, caches and buffers."""

LEVELS = ("x86_64", "x86_64_v2", "x86_64_v3", "x86_64_v4")
ENGINE_ARCHITECTURES = {"llama-cpp": ("x86_64",), "llama-server": ("x86_64",), "vllm": ("x86_64",)}
"""What there are builds for; a server that the inventory describes may run anywhere."""

ENGINE_PYTHONS = {"vllm": "3.11"}
"""Of engines that are there for one Python."""

TAKEN = (str(ports.PREFIX), str(ports.ETC), str(ports.QUEEN_STATE), str(ports.HIVE_STATE))
"""Folders whose content the deployer or a service looks after."""
FLEETING = ("/dev", "/proc", "/run", "/sys", "/tmp", "/var/tmp")  # noqa: S108 - named to be refused


def _engine_has_a_build(case: Case) -> Iterator[Finding]:
    arch, python = case.facts.arch, case.facts.python
    for engine in case.host.engines:
        builds, only = ENGINE_ARCHITECTURES.get(engine), ENGINE_PYTHONS.get(engine)
        if arch is not None and builds is not None and arch not in builds:
            yield Finding(
                f"its architecture is {arch}, for which there is no build of the engine {engine}",
                f"use a host with {' or '.join(builds)}, or write engines=[] for it",
            )
        elif only is not None and python is not None and python != only and case.host.container_engine is None:
            yield Finding(
                f"its Python is {python}, and the engine {engine} is there for {only}",
                f"use a host with Python {only}, such as Debian 12, or an image of workers",
            )


def _engine_runs_there(case: Case) -> Iterator[Finding]:
    facts, needs = case.facts, case.needs
    if facts.cpu_baseline is not None and _level(facts.cpu_baseline) < _level(needs.engine_cpu):
        yield Finding(
            f"its CPU is {facts.cpu_baseline}, and the engine is built for {needs.engine_cpu}",
            "use a host with a newer CPU, or write engines=[] for it",
        )
    if needs.engine_glibc and facts.glibc is not None and version(facts.glibc) < version(needs.engine_glibc):
        yield Finding(
            f"its glibc {facts.glibc} is older than the engine's {needs.engine_glibc}",
            "upgrade the host, or run the deploy from a machine as old as the host so that it builds the engine there",
        )


def _level(baseline: str) -> int:
    return LEVELS.index(baseline) if baseline in LEVELS else 0


def _disk_is_big_enough(case: Case) -> Iterator[Finding]:
    needs, models_dir = case.needs, case.host.models_dir
    copied = Counter({str(ports.PREFIX): needs.release_bytes * RELEASE_GROWTH + needs.engine_bytes * ENGINE_GROWTH})
    copied[str(ports.PREFIX)] += needs.image_bytes
    if needs.image_bytes:
        copied[IMAGES[case.host.container_engine or ContainerEngine.PODMAN]] += needs.image_bytes * IMAGE_GROWTH
    copied[models_dir] += needs.model_bytes
    # Added rather than merged: models_dir may be one of these folders.
    wanted = Counter(copied)
    wanted.update({str(ports.STATE): STATE_DISK, str(ports.ETC.parent): ETC_DISK})
    disks: dict[int, list[str]] = {}
    for path in wanted:
        if path in case.facts.disk_free:
            # The same free space to the byte is the same disk.
            disks.setdefault(case.facts.disk_free[path], []).append(path)
    for free, paths in disks.items():
        need = sum(wanted[path] for path in paths) + (SPARE_DISK if copied.keys() & paths else 0)
        if free < need:
            have, verb = ("has", "needs") if len(paths) == 1 else ("have", "need")
            yield Finding(
                f"{listed(paths)} {have} {amount(free)} free and {verb} {amount(need)}",
                "make room, or give models_dir a bigger disk" if models_dir in paths else "make room there",
            )


def _models_dir_is_a_folder(case: Case) -> Iterator[Finding]:
    models_dir = PurePosixPath(case.host.models_dir)
    for path in (*reversed(models_dir.parents), models_dir):
        kind = case.facts.paths.get(str(path), {}).get("kind", "directory")
        # A link is followed when the folder is made.
        if kind not in {"directory", "link"}:
            yield Finding(
                f"models_dir is {case.host.models_dir}, and {path} is no folder there ({kind})",
                "write models_dir='…' with another path, or move that away",
            )
            return


def _models_dir_lasts(case: Case) -> Iterator[Finding]:
    models_dir = PurePosixPath(case.host.models_dir)
    above = next((path for path in (*TAKEN, *FLEETING) if models_dir.is_relative_to(path)), None)
    if above is not None:
        owner = "is emptied when the host starts" if above in FLEETING else "belongs to rbee's own files"
        yield Finding(
            f"models_dir is {models_dir}, and {above} {owner}",
            f"write models_dir='…' with a folder of its own, such as {ports.MODELS}",
        )


def _memory_may_do(case: Case) -> Iterator[Finding]:
    memory, needed = case.facts.memory_bytes, case.needs.model_bytes * MODEL_MEMORY
    if memory is not None and memory < needed:
        yield Finding(
            f"it has {amount(memory)} of memory and its models need about {amount(needed)}",
            "unless its GPUs hold them, restrict a model to other hosts",
        )


def _a_device_holds_each_model(case: Case) -> Iterator[Finding]:
    declared = case.host.devices if isinstance(case.host.devices, tuple) else ()
    sizes = [device.memory for device in declared] or list(case.facts.gpus)
    largest, what = max(sizes, default=0), "declared GPU" if declared else "GPU"
    for name, needed in case.needs.models:
        if largest and needed > largest:
            yield Finding(
                f"model {name} needs {amount(needed)}, the largest {what} has {amount(largest)}",
                "restrict it to other hosts, or give it a smaller context, fewer slots or a smaller quantisation",
            )


ENGINE_BUILD = Check(
    id="engine-build",
    title="There is a build of each engine for the host",
    looks_at="`uname -m`, the host's `python3` and its `engines`",
    fails_when="an engine of the host has no build for its architecture, or for its Python",
    why="rbee itself runs on x86_64 and aarch64; engines are built for x86_64 only, vllm for Python 3.11",
    fix="write `engines=[]` for the host, or use another one",
    find=_engine_has_a_build,
    scope=Scope.HIVE,
)
ENGINE_FLOOR = Check(
    id="cpu-baseline",
    title="The processor runs the engine",
    looks_at="the flags in `/proc/cpuinfo` as a level of x86-64, and the version of glibc",
    fails_when="the processor's level or glibc is below what the engine was built for",
    why="a worker would end at its first instruction that the processor does not know, or never load its libraries",
    fix="use a newer host, or write `engines=[]` for it",
    find=_engine_runs_there,
    scope=Scope.HIVE,
)
DISK = Check(
    id="disk-space",
    title="The disk takes what is brought",
    looks_at="free space under `/opt/rbee`, `models_dir`, the store of container images, `/var/lib/rbee` and `/etc`, "
    "and the sizes of what is still missing in the first three",
    fails_when=f"less than {amount(SPARE_DISK)} would be left beside what is copied; `/var/lib/rbee` needs "
    f"{amount(STATE_DISK)} and `/etc` {amount(ETC_DISK)}, which add to it where they share a disk",
    why="a disk that runs full in the middle leaves nothing broken, but costs the time of the copying, or of an "
    "activation that is taken back",
    fix="make room, or give `models_dir` a bigger disk",
    find=_disk_is_big_enough,
)
MODELS_FOLDER = Check(
    id="models-dir",
    title="models_dir is or can become a folder",
    looks_at="every path on the way to `models_dir`",
    fails_when="one of them is a file, a socket or a device",
    why="the folder could not be made, after everything else was",
    fix="write another `models_dir`, or move that away",
    find=_models_dir_is_a_folder,
    scope=Scope.HIVE,
)
MODELS_PLACE = Check(
    id="models-dir-place",
    title="models_dir outlasts releases and reboots",
    looks_at="`models_dir` in the inventory",
    fails_when=f"it lies within {', '.join(f'`{path}`' for path in (*TAKEN, *FLEETING))}",
    why="releases and engines are removed when they are old, and the others are emptied or in memory: models would go "
    "with them",
    fix=f"leave `models_dir` at `{ports.MODELS}`, or name a folder on a big disk",
    find=_models_dir_lasts,
    scope=Scope.HIVE,
)
MEMORY = Check(
    id="memory",
    title="Memory may hold the models",
    looks_at="`MemTotal` and the sizes of the models that are brought",
    fails_when=f"it is less than {MODEL_MEMORY} times the models",
    why="a model that neither a GPU nor memory holds does not load",
    fix="restrict a model to other hosts, unless GPUs hold it",
    find=_memory_may_do,
    severity=Severity.HINT,
)
DEVICE_MEMORY = Check(
    id="device-memory",
    title="A GPU holds each model that may run on the host",
    looks_at="the headers of model files on this machine, and the memory of the host's GPUs, or of declared ones",
    fails_when="one worker is estimated to take more than the largest GPU has",
    why="the model would never be placed there, however long clients wait for it",
    fix="restrict the model to other hosts, or give it a smaller context, fewer slots or a smaller quantisation",
    find=_a_device_holds_each_model,
    severity=Severity.HINT,
    scope=Scope.HIVE,
)
