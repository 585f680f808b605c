"""Pre-seed model files: each blob under its own hash, the manifest last."""

import json
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from pyinfra import host
from pyinfra.api import FunctionCommand, StringCommand, operation

from rbee_deploy.activator.manifest import Generation
from rbee_deploy.facts.memo import observe
from rbee_deploy.observed import Observed
from rbee_deploy.operations import upload
from rbee_deploy.operations.activate import activator
from rbee_deploy.operations.later import now
from rbee_deploy.operations.root import as_root_command
from rbee_deploy.operations.upload import Upload
from rbee_runtime import ports, protocol
from rbee_runtime.models.references import slug
from rbee_runtime.protocol import ModelFile, ModelReport, ModelSpec

_DECLARED = ("name", "size", "files")


@dataclass(frozen=True)
class Seed:
    """One file of a model, which lies on the operator's machine; `store` is the host's model store.

    `whole` are all files of the model; empty means that this one is it.
    """

    model: str
    source: Path
    name: str
    sha256: str
    size: int
    store: str
    whole: tuple[ModelFile, ...] = ()

    @property
    def blob(self) -> str:
        """Return the name of the file in the store."""
        return f"sha256-{self.sha256}"

    def report(self) -> ModelReport:
        """Return what the manifest says."""
        files = self.whole or (ModelFile(name=self.name, sha256=self.sha256, size=self.size),)
        return ModelReport(name=self.model, size=sum(file.size for file in files), files=files)


@operation()
def seeded(seeds: list[Seed] | Callable[[], list[Seed]]) -> Iterator[StringCommand]:
    """Upload what the store lacks; a blob that two models share travels once, and a manifest after all its blobs."""
    facts, wanted, sent = observe(host), now(seeds), set[str]()
    for number, seed in enumerate(wanted):
        if not _has_blob(seed, facts) and seed.blob not in sent:
            sent.add(seed.blob)
            sending = Upload(seed.source, seed.sha256, seed.size, "incoming", seed.store, partial(in_store, seed.store))
            yield from upload.commands(sending, facts)
            yield as_root_command(sending.within(adopt(seed, sending)))
        is_last = seed.model not in {other.model for other in wanted[number + 1 :]}
        if is_last and not _has_manifest(seed, facts):
            yield as_root_command(in_store(seed.store, describe(seed)), (manifest(seed),))
    if all(_has_blob(seed, facts) and _has_manifest(seed, facts) for seed in wanted):
        host.noop("every model is there")


@operation()
def fetched(
    specs: list[ModelSpec] | Callable[[], list[ModelSpec]], wanted: Callable[[], Generation | None]
) -> Iterator[StringCommand | FunctionCommand]:
    """Have the host fetch models from their sources, with the release and the settings that it is about to get."""
    missing = now(specs)
    generation = wanted() if missing else None
    if generation is None:
        host.noop("no model is to be fetched ahead")
        return
    text = json.dumps([protocol.to_builtins(spec) for spec in missing])
    yield FunctionCommand(upload.enter, (), {})
    yield as_root_command(activator(generation.release, "fetch", generation.id), (text,))
    yield FunctionCommand(upload.leave, (), {})


def in_store(store: str, script: str) -> str:
    """Return the script that runs `script` inside a model store as its owner.

    Root must not write where the hive could have laid a link; and the store may lie where only root can walk to.
    """
    owner = shlex.join(("runuser", "-u", ports.HIVE_USER, "--", "sh", "-c", script))
    return f"cd {shlex.quote(store)} && exec {owner}"


def adopt(seed: Seed, sending: Upload) -> str:
    """Return the script that moves an uploaded file into the store under its hash."""
    moved = (
        ("chmod", "0640", sending.part),
        ("sync", "--", sending.part),
        ("mv", "-fT", sending.part, f"blobs/{seed.blob}"),
    )
    return "\n".join(("set -e", upload.arrived(sending), *map(shlex.join, moved)))


def describe(seed: Seed) -> str:
    """Return the script that takes the manifest from its input; the group follows from the folder."""
    name = f"{slug(seed.model)}.json"
    draft, final = f"manifests/.{name}.new", f"manifests/{name}"
    taken = f"umask 027; IFS= read -r text && printf '%s\\n' \"$text\" >{draft}"
    return f"{taken}{_links(seed)} && sync -- {draft} && mv -fT {draft} {final}"


def _links(seed: Seed) -> str:
    """Return the commands that give the files of a model of several their names, as the hive does (`views.build`)."""
    lines = []
    for file in seed.whole if len(seed.whole) > 1 else ():
        link = PurePosixPath("views", slug(seed.model), file.name)
        blob = "../" * (len(link.parts) - 1) + f"blobs/sha256-{file.sha256}"
        lines.append(
            f" && {shlex.join(('mkdir', '-p', str(link.parent)))} && {shlex.join(('ln', '-sfn', blob, str(link)))}"
        )
    return "".join(lines)


def manifest(seed: Seed) -> str:
    """Return what the manifest says: what a hive reports of the model, without what only the hive knows."""
    known = {name: value for name, value in protocol.to_builtins(seed.report()).items() if name in _DECLARED}
    return json.dumps(known, separators=(",", ":"))


def _has_blob(seed: Seed, facts: Observed) -> bool:
    return bool(facts.raw.get("blobs", {}).get(seed.blob) == seed.size)


def _has_manifest(seed: Seed, facts: Observed) -> bool:
    wanted = {"slug": slug(seed.model), **json.loads(manifest(seed))}
    # A hive that took the model in by itself says more of it, which is no difference.
    return any(wanted.items() <= found.items() for found in facts.raw.get("models", ()))
