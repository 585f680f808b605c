"""What one host should have, worked out on the operator's machine from the inventory and what the host is."""

import hashlib
import json
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rbee_deploy import _x509, externals, model_credentials, model_files
from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.authority import CLIENT_ROLE, FleetAuthority, issue_anew, site_state
from rbee_deploy.engines import command_artefact
from rbee_deploy.images import needed
from rbee_deploy.images.kinds import ROLE_IMAGES
from rbee_deploy.images.manifest import Image, Images
from rbee_deploy.local import DEFAULT_VARIANT
from rbee_deploy.observed import Observed
from rbee_deploy.packages import POLKIT
from rbee_deploy.preflight import Needs, Trust
from rbee_deploy.render import OwnedFile, SiteState, digest_of, owned_files, unwanted_paths
from rbee_deploy.secrets import Secret, SecretSource, asked_for
from rbee_deploy.site import Host, Model, Replicas, Site, TlsPaths
from rbee_deploy.sources import ArtefactSource, Built, HeldFile
from rbee_deploy.versions import version
from rbee_runtime.models.references import identity, shown
from rbee_runtime.models.sources.credentials import REGISTRIES
from rbee_runtime.protocol import ModelFile, ModelSpec

T = TypeVar("T")


@dataclass(frozen=True)
class HostPlan:
    """Everything to bring to a host; `files` has the digests last.

    `models` has an entry for each file of a model, `contents` where the content with a sha256 lies on this machine,
    `footprints` the bytes of device memory that a worker of a model is estimated to take, `images` those of
    containers with their files on this machine, None for one that the host pulls with `registry_auth`. `inside` is
    the release in the images of queen and hive, "" where they run the host's own.
    """

    release: Artefact
    uv: Artefact
    engines: tuple[Artefact, ...]
    models: tuple[tuple[Model, ModelFile], ...]
    files: tuple[OwnedFile, ...]
    contents: Mapping[str, Path] = field(default_factory=dict)
    footprints: Mapping[str, int] = field(default_factory=dict)
    images: tuple[tuple[Image, Path | None], ...] = ()
    inside: str = ""
    registry_auth: Secret | None = None

    def digest(self, role: str) -> str:
        """Return the desired digest of a role."""
        return digest_of(self.files, role)


def needs(plan: HostPlan, facts: Observed) -> Needs:
    """Return what the plan still has to bring to a host."""
    releases_there, engines_there, blobs = (facts.names(kind) for kind in ("releases", "engines", "blobs"))
    missing = [file for _, file in plan.models if f"sha256-{file.sha256}" not in blobs]
    return Needs(
        release_bytes=0 if plan.release.id in releases_there else plan.release.size + plan.uv.size,
        engine_bytes=sum(engine.size for engine in plan.engines if engine.id not in engines_there),
        image_bytes=sum(image.size for image, _ in plan.images if image.id not in facts.names("images")),
        model_bytes=sum(file.size for file in {file.sha256: file for file in missing}.values()),
        engine_glibc=max((engine.glibc for engine in plan.engines), key=version, default=""),
        engine_cpu=DEFAULT_VARIANT.removeprefix("cpu-") if plan.engines or plan.images else "",
        installs_packages=str(facts.raw.get("os_id")) in POLKIT,
        models=tuple(plan.footprints.items()),
    )


def fetched(site: Site, host: Host, facts: Observed, brought: Collection[str] = ()) -> list[str]:
    """Return which models a host's hive may fetch, and from where; not those that it has from there already.

    `brought` are names of models that the deployer puts there.
    """
    return [
        f"{model.name} from {'other hives' if host.store.offline else shown(model.source)}"
        for model in site.models
        if model.fetched and model.name not in brought and host in site.hives_for(model)
        if not _has(facts, model)
    ]


def _has(facts: Observed, model: Model) -> bool:
    """Say whether a host has a model from where the inventory has it."""
    there = ((found.get("name"), identity(str(found.get("source")))) for found in facts.raw.get("models", ()))
    return (model.name, identity(model.source)) in there


def ahead(site: Site, host: Host, facts: Observed, *, every: bool) -> list[ModelSpec]:
    """Return the models that a host is to fetch before its hive goes over, without those that it has.

    These are what the inventory pre-seeds and, with `every`, what is sure to run there as well.
    """
    return [
        ModelSpec(name=model.name, source=model.source, pin=model.pin)
        for model in site.models
        if model.fetched and not host.store.offline and host in (able := site.hives_for(model))
        if model.preseed or (every and model.preseed is None and _is_sure(model.replicas, len(able)))
        if not _has(facts, model)
    ]


def _is_sure(replicas: Replicas, hosts: int) -> bool:
    """Say whether each of so many hosts will run the model, as far as can be known before the queen has placed it."""
    return replicas.each_host or replicas.minimum >= hosts


@dataclass
class Workshop:
    """Makes what hosts need, each thing once per run; hosts are deployed side by side and wait for each other here."""

    site: Site
    source: ArtefactSource = field(default_factory=Built)
    _made: dict[Any, Any] = field(default_factory=dict)
    _lock: threading.RLock = field(default_factory=threading.RLock)

    def plan(self, host: Host, target: Target, podman: str | None = None) -> HostPlan:
        """Return a host's plan; raises DeployError if something in it cannot be made.

        `podman` is the version there, None for one that is yet to be installed.
        """
        return self._once(("plan", host.name, host.way, target, podman), lambda: self._plan(host, target, podman))

    def paths(self, host: Host) -> tuple[str, ...]:
        """Return the paths of a host's files, which do not depend on what the host is."""

        def make() -> tuple[str, ...]:
            some = tuple(Image(name=kind, version="", arch="", id="", tag="") for kind in ROLE_IMAGES.values())
            return self._paths(owned_files(self.site, host, replace(self._state(host, ""), images=some)))

        return self._once(("paths", host.name, host.way), make)

    @staticmethod
    def _paths(files: tuple[OwnedFile, ...]) -> tuple[str, ...]:
        return (*(file.path for file in files), *unwanted_paths(files))

    def trust(self) -> Trust:
        """Return what the operator's certificates are, the authority's hash as a host's fact reports it."""
        state, own = self._common(), isinstance(self.site.client_endpoint, TlsPaths)
        client = state.certificates[CLIENT_ROLE, self.site.queen.name] if own else None
        return Trust(
            authority=hashlib.sha256(state.ca.encode()).hexdigest(),
            ends=_x509.end_of(state.ca),
            own_ends=_x509.end_of(client.pem) if client is not None else None,
        )

    def renew_certificates(self) -> tuple[str, ...]:
        """Replace every certificate of the fleet, once in a run, and return what they are for; plans have the new."""

        def make() -> tuple[str, ...]:
            issued = issue_anew(FleetAuthority.open(self.site.secrets, self.site.name), self.site)
            for key in [key for key in self._made if key[0] in {"state", "plan"}]:
                del self._made[key]
            return issued

        return self._once(("renewed",), make)

    def preseeded(self) -> dict[str, tuple[ModelFile, ...]]:
        """Return the files of the models that the deployer brings to hosts, by model name."""
        held = {model.name: self._held(model) for model in self.site.models}
        return {name: tuple(each.file for each in files) for name, files in held.items() if files}

    def _plan(self, host: Host, target: Target, podman: str | None) -> HostPlan:
        release = self._once(("release", target), lambda: self.source.release(self.site.version, target))
        in_images = host.container_engine is not None
        engines = tuple(self._engine(name, target) for name in host.engines) if host.hive and not in_images else ()
        images = self._images(host, target) if in_images else ()
        models = self._models(host)
        inside = next((image.release for image, _ in images if image.name in ROLE_IMAGES.values()), "")
        state = replace(
            self._state(host, inside or release.id),
            engines=tuple(engine.id for engine in engines),
            images=tuple(image for image, _ in images),
            podman=podman,
        )
        sizes = {model.name: self._footprint(model) for model, _ in models}
        return HostPlan(
            release=release,
            uv=self._once(("uv", target), lambda: self.source.uv(target)),
            engines=engines,
            models=models,
            files=owned_files(self.site, host, state),
            contents={each.file.sha256: each.path for model, _ in models for each in self._held(model)},
            footprints={name: size for name, size in sizes.items() if size is not None},
            images=images,
            inside=inside,
            registry_auth=self._registry_auth(host, images),
        )

    def _registry_auth(self, host: Host, images: Sequence[tuple[Image, Path | None]]) -> Secret | None:
        """Return what registries of images are shown, in one line; None where nothing is pulled or nothing given."""
        source = host.registry_auth or self.site.registry_auth
        if source is None or all(path is not None for _, path in images):
            return None
        given = self._once(("credential", REGISTRIES, id(source)), partial(self._credential, host, REGISTRIES, source))
        return Secret(json.dumps(json.loads(given.reveal())))

    def _images(self, host: Host, target: Target) -> tuple[tuple[Image, Path | None], ...]:
        """Return the images of a host's containers, each with its file; DeployError."""
        known = self._folder()
        found = needed.by_host(host, known, target.arch, self.site.version)
        return tuple((image, needed.file_of(known, image)) for image in found)

    def _folder(self) -> Images:
        return self._once(("images",), lambda: self.source.images(self.site))

    def check_images(self, host: Host) -> None:
        """Raise DeployError where this machine has no images that a host could get, whatever the host is."""
        if host.container_engine is not None:
            needed.check(host, self._folder(), self.site.version)

    def _footprint(self, model: Model) -> int | None:
        """Return the estimate for one worker of a model, None where its files are of no form that is known."""
        files = [(each.file.name, each.path) for each in self._held(model)]
        return self._once(("footprint", model.name), lambda: model_files.footprint(model, files))

    def _engine(self, name: str, target: Target) -> Artefact:
        own = next((engine for engine in self.site.command_engines if engine.name == name), None)
        if own is not None:
            # Made of the inventory alone, wherever all else comes from.
            return self._once(("engine", name), lambda: command_artefact(own))
        return self._once(("engine", name, target), lambda: self.source.engine(name, DEFAULT_VARIANT, target))

    def _models(self, host: Host) -> tuple[tuple[Model, ModelFile], ...]:
        files = self.preseeded()
        there = [model for model in self.site.models if model.name in files and host in self.site.hives_for(model)]
        return tuple((model, file) for model in there for file in files[model.name])

    def _held(self, model: Model) -> tuple[HeldFile, ...]:
        return self._once(("model", model.source, model.preseed), lambda: self.source.model(model))

    def _common(self) -> SiteState:
        def make() -> SiteState:
            authority = FleetAuthority.open(self.site.secrets, self.site.name)
            return site_state(authority, self.site, release="", models=self.preseeded())

        return self._once(("state",), make)

    def _state(self, host: Host, release: str) -> SiteState:
        state = replace(self._common(), release=release, model_credentials=self._credentials(host))
        return replace(state, external_keys=self._external_keys()) if host.queen else state

    def _external_keys(self) -> Secret | None:
        if not self.site.external_keys:
            return None
        return self._once(("external keys",), lambda: externals.keys(self.site.external))

    def _credentials(self, host: Host) -> dict[str, Secret]:
        # By source, so that a password manager asks its user once for all hosts.
        return {
            name: self._once(("credential", name, id(source)), partial(self._credential, host, name, source))
            for name, source in self.site.model_credentials(host).items()
        }

    def _credential(self, host: Host, name: str, source: SecretSource) -> Secret:
        with asked_for(self.site.credential_field(host, name)):
            return model_credentials.read(name, source)

    def _once(self, key: Any, make: Callable[[], T]) -> T:
        # One lock for all: a file lock inside would stop every host's greenlet, not only the one that waits.
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            made: T = self._made[key]
            return made
