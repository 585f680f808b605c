"""What must hold of a host, a model and a whole fleet; each invariant is a function named as its sentence."""

from collections.abc import Callable, Collection, Iterable
from pathlib import Path, PurePosixPath

from rbee_deploy import firewall, sources
from rbee_deploy._fields import nearest
from rbee_deploy.activator.firewall.rules import Kind
from rbee_deploy.errors import ArtefactError, InventoryError
from rbee_deploy.housing import is_showable
from rbee_deploy.images import manifest as image_manifest
from rbee_deploy.modes import ContainerEngine, Mode, way_out
from rbee_deploy.site import BUILT_IN_ENGINE, IMAGED_ENGINES, INSTALLABLE_ENGINES, Host, Model, Site
from rbee_deploy.stores import Store
from rbee_runtime.engine_cards import SHARING_ENGINES
from rbee_runtime.errors import ConfigError
from rbee_runtime.models import references
from rbee_runtime.models.references import Scheme, shown
from rbee_runtime.worker.engines import options as engine_options


def check_host(host: Host) -> None:
    """Raise InventoryError unless every invariant of one host holds."""
    for invariant in (
        host_has_a_part,
        ports_do_not_overlap,
        a_firewall_sees_what_is_published,
        podman_runs_without_root,
        a_fallback_is_another_way,
    ):
        invariant(host)


def check_store(store: Store) -> None:
    """Raise InventoryError unless every invariant of a model store holds."""
    hub_has_tls(store)


def check_model(model: Model) -> None:
    """Raise InventoryError unless every invariant of one model holds."""
    for invariant in (
        engine_fits_source,
        engine_takes_options,
        something_is_brought,
        file_exists_here,
        what_stays_has_no_idle_ttl,
        what_continues_has_another_worker,
        cards_are_shared_by_engines_that_can,
    ):
        invariant(model)


def check_site(site: Site) -> None:
    """Raise InventoryError unless every invariant of the fleet holds."""
    fleet_wide: tuple[Callable[[Site], None], ...] = (
        there_is_one_queen,
        host_names_differ,
        addresses_differ,
        model_names_differ,
        external_names_differ,
        aliases_are_of_models,
        engine_names_differ,
        engines_are_known,
        models_name_declared_hosts,
        models_stay_apart_from_declared_ones,
        every_model_has_a_host,
        plain_http_is_allowed,
        a_firewall_knows_the_fleet,
        clients_are_kept_out_by_a_firewall,
        images_come_from_somewhere,
        images_are_here,
        hives_in_containers_see_what_lies_there,
    )
    for invariant in fleet_wide:
        invariant(site)


def host_has_a_part(host: Host) -> None:
    """Check that a host is queen, hive or both."""
    if not host.queen and not host.hive:
        raise InventoryError(f"host {host.name!r}: it is neither queen nor hive; drop hive=False or the whole line")


def ports_do_not_overlap(host: Host) -> None:
    """Check that the ports that one host listens on differ."""
    used: dict[int, str] = {}
    queen = (("queen_port", host.queen_port), ("link_port", host.link_port)) if host.queen else ()
    hive = (("hive_port", host.hive_port),) if host.hive else ()
    for field, port in (*queen, *hive):
        if port in used:
            raise InventoryError(f"host {host.name!r}: {field} and {used[port]} are both {port}; give one another port")
        if host.hive and host.worker_ports[0] <= port <= host.worker_ports[1]:
            raise InventoryError(f"host {host.name!r}: {field} {port} lies within worker_ports {host.worker_ports}")
        used[port] = field


def engine_names_differ(site: Site) -> None:
    """Check that each server has a name of its own."""
    _each_once("command_engine", (engine.name for engine in site.command_engines))


def engines_are_known(site: Site) -> None:
    """Check that engines are those that this version can install, or the fleet declares, and that images have them."""
    known = (*INSTALLABLE_ENGINES, *(engine.name for engine in site.command_engines))
    for host in site.hosts:
        for engine in host.engines:
            if engine not in known:
                raise InventoryError(
                    f"host {host.name!r}: engines: {engine!r} is not an engine of this version"
                    f"{nearest(engine, known)}; known are {', '.join(known)}, and what command_engines of the fleet has"
                )
            if host.container_engine is not None and engine not in IMAGED_ENGINES:
                raise InventoryError(
                    f"host {host.name!r}: engines: there is no image with {engine!r}, and its workers are containers; "
                    f"use a bare host, or {' or '.join(IMAGED_ENGINES)}"
                )


def a_firewall_sees_what_is_published(host: Host) -> None:
    """Check that nobody counts on a firewall past which an engine of containers publishes ports.

    What is published without root listens on the host as any process does.
    """
    if host.firewall not in {None, Kind.NFTABLES} and host.container_engine not in {None, ContainerEngine.ROOTLESS}:
        also = "rootless=True, " if host.engine == ContainerEngine.PODMAN else ""
        raise InventoryError(
            f"host {host.name!r}: firewall is {host.firewall!r}, past which {host.engine} publishes the ports of "
            f"workers; write firewall='nftables' if {host.firewall} is off there, {also}or {way_out(host.way)}"
        )


def podman_runs_without_root(host: Host) -> None:
    """Check that `rootless` is said of a host with containers of Podman."""
    if not host.rootless:
        return
    if host.container_engine is None:
        raise InventoryError(
            f"host {host.name!r}: rootless is True, and nothing there runs in a container; write mode='container' as "
            "well, or drop rootless"
        )
    if host.engine != ContainerEngine.PODMAN:
        raise InventoryError(
            f"host {host.name!r}: rootless is True, and in this version only Podman runs without root; write "
            "engine='podman', or drop rootless"
        )


def a_fallback_is_another_way(host: Host) -> None:
    """Check that a fallback is another way than the host's own."""
    if host.fallback is not None and host.mode != Mode.CONTAINER:
        raise InventoryError(
            f"host {host.name!r}: fallback is {host.fallback!r}, which is for hosts with mode='container': write that, "
            "or drop fallback"
        )


def hub_has_tls(store: Store) -> None:
    """Check that a hub without TLS is one of the hosts that may go without."""
    if store.hf_endpoint is not None and not store.allows_plain_http(store.hf_endpoint):
        raise InventoryError(
            f"store: hf_endpoint is {store.hf_endpoint!r}, which is not asked without TLS: write https://…, or name "
            "its host in plain_http_hosts"
        )


def engine_fits_source(model: Model) -> None:
    """Check that engine `fake` serves fake sources, and no other engine does."""
    fake_source = model.scheme is Scheme.FAKE
    if fake_source != (model.engine_name == BUILT_IN_ENGINE):
        fits = BUILT_IN_ENGINE if fake_source else "llama-cpp"
        raise InventoryError(
            f"model {model.name!r}: engine is {model.engine_name!r}, which cannot serve {shown(model.source)!r}; "
            f"drop the field or write engine={fits!r}"
        )


def engine_takes_options(model: Model) -> None:
    """Check that a worker will take the options, those in a fake source too: what it refuses, no host can serve."""
    try:
        engine_options.check(model.engine_name, model.source, model.options, slots=model.slots)
    except ConfigError as error:
        raise InventoryError(f"model {model.name!r}: {error}") from error


def something_is_brought(model: Model) -> None:
    """Check that nobody asks for files of a model that has none."""
    if model.preseed and model.scheme is Scheme.FAKE:
        raise InventoryError(f"model {model.name!r}: {shown(model.source)!r} has no files; drop preseed=True")


def file_exists_here(model: Model) -> None:
    """Check that a file that the deployer is to copy exists on this machine, unless the run takes it from elsewhere."""
    if model.file is None or not model.copied or not sources.chosen().reads_files or model.file.is_file():
        return
    if model.file.is_dir():
        raise InventoryError(
            f"model {model.name!r}: source {model.source!r} is a folder, and only single files are copied; put it on "
            "the hosts under the same path and write preseed=False"
        )
    raise InventoryError(
        f"model {model.name!r}: source {model.source!r} does not exist on this machine; correct the path, or write "
        "preseed=False if it lies on the hosts"
    )


def what_stays_has_no_idle_ttl(model: Model) -> None:
    """Check that nobody gives seconds after which workers go that never go."""
    kept = "keep_loaded=True" if model.keep_loaded else "replicas=each_host" if model.replicas.each_host else ""
    if model.idle_ttl and kept:
        raise InventoryError(
            f"model {model.name!r}: idle_ttl is {model.idle_ttl:g}, and with {kept} its workers stay; drop one of "
            "the two"
        )


def what_continues_has_another_worker(model: Model) -> None:
    """Check that a model whose streams another worker goes on with can have one."""
    if model.continues and model.replicas.maximum == 1 and not model.replicas.each_host:
        raise InventoryError(
            f"model {model.name!r}: continues is True, and with replicas at most 1 there is no other worker to go on; "
            "raise replicas or drop continues"
        )


def cards_are_shared_by_engines_that_can(model: Model) -> None:
    """Check that a worker on several cards has an engine that can share them."""
    if model.gpus > 1 and model.engine_name not in SHARING_ENGINES:
        raise InventoryError(
            f"model {model.name!r}: gpus is {model.gpus}, and engine {model.engine_name!r} takes one card; "
            f"those that share cards are {', '.join(sorted(SHARING_ENGINES))}"
        )


def models_stay_apart_from_declared_ones(site: Site) -> None:
    """Check that models that another one stays apart from are models of the fleet."""
    names = [model.name for model in site.models]
    for model in site.models:
        for name in model.apart_from:
            _is_declared(f"model {model.name!r}: apart_from names {name!r}", name, "model", names)


def there_is_one_queen(site: Site) -> None:
    """Check that exactly one host is the queen."""
    queens = [host.name for host in site.hosts if host.queen]
    if not queens:
        raise InventoryError(f"fleet {site.name!r}: no host is the queen; add queen=True to one host")
    if len(queens) > 1:
        named = " and ".join(repr(name) for name in queens)
        raise InventoryError(f"fleet {site.name!r}: hosts {named} both have queen=True; a fleet has one queen")


def host_names_differ(site: Site) -> None:
    """Check that no two hosts have one name."""
    _each_once("host", (host.name for host in site.hosts), key=str.lower)


def addresses_differ(site: Site) -> None:
    """Check that no two hosts have one address."""
    seen: dict[str, str] = {}
    for host in site.hosts:
        for field, address in (("address", f"{host.ssh_address} port {host.ssh_port}"), ("advertise", host.reach)):
            key = f"{field} {address.lower()}"
            if key in seen:
                raise InventoryError(
                    f"host {host.name!r}: {field} {address} is also that of host {seen[key]!r}; give each its own"
                )
            seen[key] = host.name


def model_names_differ(site: Site) -> None:
    """Check that no two models have one name, nor names that become one file name."""
    seen: dict[str, str] = {}
    for model in site.models:
        slug = references.slug(model.name)
        if seen.get(slug) == model.name:
            raise InventoryError(f"model {model.name!r}: declared twice; rename one or delete it")
        if slug in seen:
            raise InventoryError(
                f"model {model.name!r}: its name and {seen[slug]!r} both become {slug!r} in file names; rename one"
            )
        seen[slug] = model.name


def external_names_differ(site: Site) -> None:
    """Check that no two servers have one name, by which the queen finds their keys."""
    _each_once("external", (server.name for server in site.external))


def aliases_are_of_models(site: Site) -> None:
    """Check that every alias is for a model of the fleet, or of a server that is not ours, and is none's own name."""
    models = [model.name for model in site.models] + [name for server in site.external for name in server.models]
    for alias, model in site.aliases.items():
        if alias in models:
            raise InventoryError(f"fleet {site.name!r}: aliases has {alias!r}, which is a model's own name; drop it")
        _is_declared(f"fleet {site.name!r}: aliases has {alias!r} for {model!r}", model, "model", models)


def models_name_declared_hosts(site: Site) -> None:
    """Check that hosts that a model names are hives of the fleet."""
    hives = [host.name for host in site.hives]
    for model in site.models:
        for name in model.hosts:
            _is_declared(f"model {model.name!r}: hosts names {name!r}", name, "hive", hives)


def every_model_has_a_host(site: Site) -> None:
    """Check that at least one hive may serve each model."""
    for model in site.models:
        if not site.hives_for(model):
            wanted = [f"engine {model.engine_name}", *(f"label {key}={value}" for key, value in model.labels.items())]
            among = f"among {', '.join(model.hosts)}" if model.hosts else "in this fleet"
            raise InventoryError(
                f"model {model.name!r}: no hive {among} has {' and '.join(wanted)}; "
                "change the host's labels or engines, or the model's"
            )


def plain_http_is_allowed(site: Site) -> None:
    """Check that every hive that may fetch a model without TLS was told so."""
    for model in (model for model in site.models if model.scheme is Scheme.HTTP):
        for host in site.hives_for(model):
            if not host.store.allows_plain_http(model.source):
                place = references.parse_source(model.source).place
                raise InventoryError(
                    f"model {model.name!r}: {shown(model.source)!r} has no TLS; use https, or give host {host.name!r} "
                    f"store=store(plain_http_hosts=[{place!r}])"
                )


def a_firewall_knows_the_fleet(site: Site) -> None:
    """Check that a host with a firewall can tell the others by the addresses from which they speak to it."""
    for host in (host for host in site.hosts if host.firewall is not None):
        kind = firewall.family(host.reach)
        for other in (other for other in site.hosts if other != host):
            families = {firewall.family(address) for address in firewall.addresses(other)}
            if not families or (kind is not None and kind not in families):
                raise InventoryError(
                    f"host {other.name!r}: it has no {kind or 'IP'} address in the inventory, by which the firewall of "
                    f"host {host.name!r} would let it in at {host.reach}; write address='…' or advertise='…' with the "
                    "one that it speaks from"
                )


def clients_are_kept_out_by_a_firewall(site: Site) -> None:
    """Check that nobody counts on `clients` where nothing holds clients to it."""
    if site.clients is not None and site.queen.firewall is None:
        raise InventoryError(
            f"fleet {site.name!r}: clients says who may connect, and the queen's host {site.queen.name!r} has no "
            "firewall that holds them to it; write firewall='nftables' there, or drop clients"
        )


def hives_in_containers_see_what_lies_there(site: Site) -> None:
    """Check that the folder of a model that lies on hosts can be shown to a hive that is in a container."""
    for model in (model for model in site.models if model.file is not None and not model.copied):
        for host in site.hives_for(model):
            folder = str(PurePosixPath(str(model.file)).parent)
            if host.mode == Mode.CONTAINER and not is_showable(folder):
                raise InventoryError(
                    f"model {model.name!r}: it lies in {folder!r} on the hosts, which host {host.name!r} cannot show "
                    "to a hive in a container: move it to a folder whose path has letters, digits and ._@+- only"
                )


def images_come_from_somewhere(site: Site) -> None:
    """Check that a fleet with containers says where their images are."""
    host = next((host for host in site.hosts if host.container_engine is not None), None)
    if host is not None and site.images is None:
        field = "mode" if host.mode == Mode.CONTAINER else "worker_runtime"
        raise InventoryError(
            f"host {host.name!r}: {field} is 'container', and fleet {site.name!r} has no images: write "
            "images='…' in fleet() with a folder that `rbee-deploy images --out …` made"
        )


def images_are_here(site: Site) -> None:
    """Check that the folder of images that hosts need can be read here, unless the run takes them from elsewhere."""
    needed = any(host.container_engine is not None for host in site.hosts)
    if site.images is None or not needed or not sources.chosen().reads_files:
        return
    try:
        image_manifest.read(Path(site.images))
    except ArtefactError as error:
        raise InventoryError(f"fleet {site.name!r}: images: {error}") from error


def _each_once(kind: str, names: Iterable[str], *, key: Callable[[str], str] = str) -> None:
    seen: set[str] = set()
    for name in names:
        if key(name) in seen:
            raise InventoryError(f"{kind} {name!r}: declared twice; rename one or delete it")
        seen.add(key(name))


def _is_declared(said: str, name: str, kind: str, declared: Collection[str]) -> None:
    if name not in declared:
        raise InventoryError(f"{said}, which is not a {kind} of this fleet{nearest(name, declared)}")
