"""What the deployer puts on hosts, compared literally with tests/golden/deploy."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from rbee_deploy import render
from rbee_deploy.errors import RenderError
from rbee_deploy.inventory import host, model, recorded, simulated, store
from rbee_deploy.render import OwnedFile, owned_files
from rbee_deploy.site import Host, Site
from rbee_runtime import config
from rbee_runtime.guard import config as guard_config
from rbee_runtime.hive.launchers import around
from tests.unit.deploy.sites import (
    FILE,
    IMAGE,
    contained,
    fenced,
    housed,
    housed_by_docker,
    one_box,
    site_of,
    state_of,
    two_hosts,
)

GOLDEN = Path(__file__).resolve().parents[2] / "golden" / "deploy"
REWRITE = "RBEE_REWRITE_GOLDEN"
HANDED = re.compile(r"--credential=(\S+)")

SITES = {
    "one-box": one_box,
    "two-hosts": two_hosts,
    "fenced": fenced,
    "contained": contained,
    "housed": housed,
    "housed-by-docker": housed_by_docker,
}
HOSTS = [(name, item.name) for name, build in SITES.items() for item in build().hosts]


def rendered(site: Site, name: str) -> tuple[OwnedFile, ...]:
    return owned_files(site, host_of(site, name), state_of(site))


def host_of(site: Site, name: str) -> Host:
    return next(item for item in site.hosts if item.name == name)


def by_path(files: tuple[OwnedFile, ...]) -> dict[str, OwnedFile]:
    return {file.path: file for file in files}


def texts(files: tuple[OwnedFile, ...]) -> dict[str, str]:
    """Return what is compared: every file that is no secret, and a table of all of them."""
    rows = [
        f"{file.mode} {file.owner}:{file.group} {file.path} restarts={','.join(sorted(file.affects)) or '-'}"
        for file in files
    ]
    plain = {file.path.replace("/", "_").strip("_"): file.text() for file in files if not file.secret}
    return {**plain, "files.txt": "\n".join(rows) + "\n"}


@pytest.mark.parametrize(("site", "name"), HOSTS)
def test_files_are_the_golden_ones(site: str, name: str) -> None:
    """Every unit, configuration, rule and digest is the one that was reviewed, letter by letter."""
    folder = GOLDEN / site / name
    found = texts(rendered(SITES[site](), name))
    if os.environ.get(REWRITE):
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.iterdir():
            old.unlink()
        for file, text in found.items():
            (folder / file).write_text(text)
        pytest.fail(f"golden files written to {folder}: read them, then run without {REWRITE}")
    assert found == {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize(("site", "name"), HOSTS)
def test_no_secret_reaches_a_plain_file(site: str, name: str) -> None:
    """Keys are in credentials that only root reads, and nowhere else."""
    files = rendered(SITES[site](), name)
    assert not [file.path for file in files if not file.secret and "canary" in file.text()]
    secret = {(file.path.rpartition("/")[0], file.owner, file.mode) for file in files if file.secret}
    assert secret == {("/etc/rbee/credentials", "root", "0600")}
    assert "canary" not in repr(files)


@pytest.mark.parametrize("section", ["QueenConfig", "HiveConfig", "FleetFile"])
def test_the_processes_accept_what_is_rendered(section: str, tmp_path: Path) -> None:
    """Queen and hive read the rendered files with their own schema."""
    name = {"QueenConfig": "queen.yaml", "HiveConfig": "hive.yaml", "FleetFile": "fleet.yaml"}[section]
    path = tmp_path / name
    path.write_text(by_path(rendered(one_box(), "box1"))[f"/etc/rbee/{name}"].text())
    loaded = config.load(path, getattr(config, section))
    if isinstance(loaded, config.FleetFile):
        assert loaded.models[0].files == (FILE,)


@pytest.mark.parametrize("name", ["box1", "gpu1"])
def test_the_guard_accepts_what_is_rendered(name: str) -> None:
    """It reads its file with its own schema, and lets through what the hive of the same host asks for, and no more."""
    files = by_path(rendered(contained(), name))
    guard = guard_config.parse(files["/etc/rbee/guard.json"].text().encode())
    hive = config.HiveConfig.model_validate(yaml.safe_load(files["/etc/rbee/hive.yaml"].text()))
    assert (guard.engine.value, guard.fleet, guard.hive) == (hive.launcher, hive.fleet, hive.name)
    assert set(guard.images) == {image.image for image in hive.containers.images.values()} == {IMAGE.id}
    assert guard.models == (hive.models_dir, *hive.store.hf_caches)
    assert (guard.network, guard.ports) == (hive.containers.network, hive.worker_ports)
    assert (guard.handover, guard.user) == (hive.state_dir / "containers", "rbee-worker")
    assert guard.callers == around.callers(hive)
    assert guard.memory_limit == hive.containers.memory_limit == {"box1": None, "gpu1": 48 << 30}[name]
    assert hive.containers.socket == "/run/rbee-guard/engine.sock"
    assert set(hive.containers.images) == {"fake", "llama-cpp"}
    assert hive.containers.images["llama-cpp"].engine_dir == f"/opt/rbee/engines/{IMAGE.engine}"


@pytest.mark.parametrize(("given", "said"), [(None, "MemoryMax=90%"), ("2 GiB", "MemoryMax=2147483648")])
def test_no_worker_may_have_all_of_its_hosts_memory(given: str | None, said: str) -> None:
    """The unit of a worker has a limit of memory, which is the inventory's where that names one."""
    box = host("box1", address="192.0.2.1", queen=True, worker_memory=given)
    unit = by_path(rendered(site_of(box), "box1"))["/etc/systemd/system/rbee-worker@.service"]
    assert said in unit.text().splitlines()


def test_a_host_with_containers_has_no_units_of_workers() -> None:
    """Neither the template nor the rule by which a hive starts it; the guard's file restarts the guard alone."""
    for name in ("box1", "gpu1"):
        files = by_path(rendered(contained(), name))
        assert not [path for path in files if "rbee-worker@" in path or "polkit" in path]
        assert files["/etc/rbee/guard.json"].affects == {"rbee-guard.service"}
        assert "rbee-hive.service" in files["/etc/rbee/credentials/worker.key"].affects


def test_credentials_of_a_unit_are_put_there() -> None:
    """What a unit loads, or hands to its container, is a file that the deployer owns, but for the hive's own spec."""
    for build in SITES.values():
        site = build()
        for item in site.hosts:
            files = by_path(owned_files(site, item, state_of(site)))
            lines = [line for file in files.values() if file.is_unit for line in file.text().splitlines()]
            loaded = {line.split(":", 1)[1] for line in lines if line.startswith("LoadCredential=")}
            loaded |= {f"/etc/rbee/credentials/{name}" for line in lines for name in re.findall(HANDED, line)}
            owned = {path for path, file in files.items() if file.secret}
            assert loaded - {"/var/lib/rbee/hive/workers/%i.json"} == owned


def digests(site: Site, name: str, **state: str) -> tuple[str, ...]:
    files = by_path(owned_files(site, host_of(site, name), state_of(site, **state)))
    return tuple(files[path].text() for path in map(render.digest_path, ("queen", "hive")) if path in files)


def test_the_same_inventory_gives_the_same_digest() -> None:
    """Rendering twice gives the same bytes, whatever the keys of certificates are."""
    assert rendered(one_box(), "box1") == rendered(one_box(), "box1")
    assert digests(one_box(), "box1") == digests(one_box(), "box1")


@pytest.mark.parametrize("change", [{"release": "0.2.0-89abcdef"}, {"version": "2"}])
def test_a_release_or_a_certificate_changes_both_digests(change: dict[str, str]) -> None:
    """A new release and new certificates restart queen and hive."""
    before, after = digests(one_box(), "box1"), digests(one_box(), "box1", **change)
    assert [old != new for old, new in zip(before, after, strict=True)] == [True, True]


def test_models_and_hosts_are_hot() -> None:
    """Another model, label or host changes fleet.yaml and no digest of anybody."""
    queen = host("q", address="192.0.2.1", queen=True)
    small = site_of(queen)
    grown = replace(one_box(), name=small.name, hosts=(queen, host("g", address="192.0.2.2", labels={"a": "b"})))
    before, after = by_path(rendered(small, "q")), by_path(rendered(grown, "q"))
    assert {path for path in before if before[path] != after[path]} == {"/etc/rbee/fleet.yaml"}
    assert not before["/etc/rbee/fleet.yaml"].affects


def test_a_worker_certificate_restarts_nothing() -> None:
    """The worker's certificate and template wait for the next worker."""
    files = by_path(rendered(one_box(), "box1"))
    waiting = ("/etc/rbee/credentials/worker.pem", "/etc/systemd/system/rbee-worker@.service")
    assert all(not files[path].affects for path in waiting)


def test_a_missing_certificate_is_named() -> None:
    """Rendering without a host's certificate says whose is missing."""
    site = one_box()
    with pytest.raises(RenderError, match="host 'box1' has no queen certificate"):
        owned_files(site, site.queen, replace(state_of(site), certificates={}))


def test_an_unknown_variable_in_a_template_is_refused() -> None:
    """A template never renders a hole."""
    with pytest.raises(
        RenderError, match=r"cannot render template systemd/rbee-queen\.socket\.j2: 'host' is undefined"
    ):
        render.template_text("systemd/rbee-queen.socket.j2", ports=object())


def hive_settings(**fields: Any) -> dict[str, Any]:
    files = by_path(rendered(site_of(host("q", address="192.0.2.1", queen=True, **fields)), "q"))
    settings = yaml.safe_load(files["/etc/rbee/hive.yaml"].text())
    config.parse(settings, config.HiveConfig, where="hive.yaml")
    return {name: value for name, value in settings.items() if name in {"store", "devices"}}


def test_store_and_devices_are_written_only_where_they_differ() -> None:
    """What the hive does by itself is not in its file, so that a deployer that knows more changes no host."""
    assert hive_settings() == hive_settings(store=store(spare="5 GiB"), devices=[]) == {}
    assert hive_settings(store=store(quota="1 GiB", hf_caches=["/srv/hf"])) == {
        "store": {"quota": 1 << 30, "hf_caches": ["/srv/hf"]}
    }
    made_up = simulated("gpu0", memory="8 GiB", used="1 GiB", card="RTX 4060")
    shown = {"id": "gpu0", "name": "RTX 4060", "total": 8 << 30, "used": 1 << 30}
    assert hive_settings(devices=[made_up]) == {"devices": {"simulate": [shown]}}


def test_a_recording_travels_to_the_host() -> None:
    """The hive is pointed to a copy of the recording, and reads a changed one without a restart."""
    recording = recorded(GOLDEN.parents[1] / "recordings" / "devices" / "synthetic_h100.json")
    site = site_of(host("q", address="192.0.2.1", queen=True, devices=recording))
    file = by_path(rendered(site, "q"))["/etc/rbee/devices.json"]
    assert file.text() == Path(recording.path).read_text()
    assert (file.group, file.mode, set(file.affects)) == ("rbee-hive", "0640", set())
    assert hive_settings(devices=recording) == {"devices": {"recorded": "/etc/rbee/devices.json"}}


def test_a_pin_reaches_the_queen() -> None:
    """A pinned model says so in fleet.yaml, any other says nothing of it."""
    pinned, other = (model(name, source="hf:acme/bee", pin=name == "a") for name in ("a", "b"))
    site = site_of(host("q", address="192.0.2.1", queen=True), models=(pinned, other))
    models = yaml.safe_load(by_path(rendered(site, "q"))["/etc/rbee/fleet.yaml"].text())["models"]
    assert [item.get("pin") for item in models] == [True, None]


def test_an_ipv6_queen_stands_in_brackets() -> None:
    """The hive's URL of a queen with an IPv6 address is a URL."""
    text = by_path(rendered(two_hosts(), "gpu1"))["/etc/rbee/hive.yaml"].text()
    assert yaml.safe_load(text)["queen_url"] == "https://[fd00::1]:8501"
