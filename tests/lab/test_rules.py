"""What the lab decides before it touches the machine."""

import os
import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from tests.lab import LabError, LabUnavailableError, claims, images, preconditions
from tests.lab.network import free_subnet
from tests.lab.nspawn import bind_option
from tests.lab.recipes import RECIPES
from tests.lab.records import Bind, HostRecord, LabRecord, Owner, load
from tests.lab.uplink import nft_rules

HOST = HostRecord(name="gpu1", machine="", address="", image="trixie")
LAB = LabRecord(name="rbl0a1b", label="t", subnet="10.40.2.0/24", gateway="10.40.2.1", owner=Owner(1, 2, "boot"))


def test_a_subnet_is_free_of_routes_but_not_afraid_of_wide_ones() -> None:
    """A VPN's 10.0.0.0/8 is no obstacle; everything that is taken more narrowly is."""
    taken = [IPv4Network("10.0.0.0/8"), IPv4Network("10.32.0.0/12"), IPv4Network("10.64.0.0/12")]
    chosen = [free_subnet(taken, random.Random(seed)) for seed in range(50)]
    assert not [net for net in chosen if net.overlaps(taken[1]) or net.overlaps(taken[2])]
    with pytest.raises(LabError, match=r"no free 10\.x\.y\.0/24"):
        free_subnet(IPv4Network("10.0.0.0/8").subnets(4), random.Random(1))


def test_hosts_get_the_lowest_free_number() -> None:
    """Number, link and address of a removed host are used again."""
    first = claims.claim_host(LAB, HOST)
    assert (first.machine, first.address, first.link) == ("rbl0a1b-1", "10.40.2.2", "vb-rbl0a1b-1")
    second = claims.claim_host(replace(LAB, hosts=(replace(first, machine="rbl0a1b-2"),)), replace(HOST, name="b"))
    assert second.address == "10.40.2.2"
    assert len(claims.claim_host(LAB, HOST).link) <= 15


@pytest.mark.parametrize("name", ["", "a b", "../up", "a" * 64, "gpu_1"])
def test_a_bad_host_name_is_refused(name: str) -> None:
    """A name that is no host name would end in a path or on a command line."""
    with pytest.raises(LabError, match="is no host name"):
        claims.claim_host(LAB, replace(HOST, name=name))


def test_a_host_name_is_used_once() -> None:
    """Two hosts of one lab never share a folder."""
    with pytest.raises(LabError, match="has a host called gpu1 already"):
        claims.claim_host(replace(LAB, hosts=(HOST,)), HOST)


def test_a_record_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    """Another process reads the same lab; half a file is no lab."""
    lab = replace(LAB, hosts=(replace(HOST, binds=(Bind("/a", "/b"),), partitioned=True),))
    lab.save(tmp_path)
    assert load(tmp_path) == lab
    (tmp_path / "lab.json").write_text("{")
    assert load(tmp_path) is None


def test_only_the_very_process_owns_a_lab(tmp_path: Path) -> None:
    """The same pid in another boot, or started at another time, is somebody else."""
    me = Owner.this_process()
    assert me.is_alive
    assert not replace(me, started=me.started + 1).is_alive
    assert not replace(me, boot="another").is_alive
    assert replace(LAB, owner=replace(me, started=0)).is_stale
    assert not replace(LAB, owner=replace(me, started=0), persistent=True).is_stale


@pytest.mark.parametrize(("folder", "stale"), [("rbl0a1b", True), ("backup", False), ("rbl0a1b.old", False)])
def test_folders_of_others_are_never_stale(tmp_path: Path, folder: str, stale: bool) -> None:
    """Only what is named like a lab is ever cleaned away."""
    (tmp_path / folder).mkdir()
    assert claims.is_stale(tmp_path / folder) is stale


def test_only_online_hosts_are_let_out() -> None:
    """The rest of the lab is dropped even while this machine forwards."""
    rules = nft_rules("rbl0a1b", "rbl0a1b", ["10.40.2.2", "10.40.2.3"])
    assert 'iifname "rbl0a1b" oifname != "rbl0a1b" ip saddr != { 10.40.2.2, 10.40.2.3 } drop' in rules
    assert 'ip saddr { 10.40.2.2, 10.40.2.3 } oifname != "rbl0a1b" masquerade' in rules


def test_a_bind_keeps_its_colons() -> None:
    """A colon in a path is not the separator."""
    assert bind_option(Bind("/a:b", "/c")) == r"--bind-ro=/a\:b:/c"
    assert bind_option(Bind("/a", "/c", read_only=False)) == "--bind=/a:/c"


def test_an_image_is_known_by_its_recipe() -> None:
    """One more package or another last step is another image."""
    recipe = RECIPES["trixie"]
    others = [replace(recipe, packages=(*recipe.packages, "curl")), replace(recipe, finish="true"), RECIPES["bookworm"]]
    assert len({recipe.digest, *(other.digest for other in others)}) == 4


def fake_bootstrap(monkeypatch: pytest.MonkeyPatch, cache: Path, script: str) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache))
    monkeypatch.setattr(images, "ISOLATED", ("true",))
    monkeypatch.setattr(images, "bootstrap_argv", lambda _recipe, tree: ["sh", "-c", script, "sh", str(tree)])


def test_two_runs_build_an_image_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The second waits for the first and uses what it made."""
    fake_bootstrap(monkeypatch, tmp_path, f'mkdir "$1"; echo built >> {tmp_path}/log; sleep 0.2')
    with ThreadPoolExecutor(3) as pool:
        trees = {*pool.map(images.ensure_image, ["trixie"] * 3)}
    assert len(trees) == 1
    assert (tmp_path / "log").read_text() == "built\n"


def test_a_failed_build_leaves_no_image(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither a half-made tree nor a complete-looking one stays, and the last words are in the message."""
    fake_bootstrap(monkeypatch, tmp_path, 'mkdir "$1"; echo mirror away >&2; exit 1')
    with pytest.raises(LabError, match="failed with 1: mirror away"):
        images.ensure_image("trixie")
    assert [path.name for path in (tmp_path / "rbee/lab").iterdir() if path.is_dir()] == []


def test_an_unknown_image_is_named_with_the_known_ones() -> None:
    """A misspelt image is one sentence."""
    with pytest.raises(LabError, match="no image called 'sid': choose one of trixie, bookworm"):
        images.ensure_image("sid")


def test_package_lists_are_refreshed_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty machine has no package lists: the first try fails, then they are fetched."""
    calls: list[str] = []

    def output(argv: Sequence[str], **options: object) -> str:
        calls.append(next(word for word in argv if word in {"install", "update"}))
        if calls == ["install"]:
            raise LabError("unable to locate package")
        return ""

    monkeypatch.setattr(preconditions, "output", output)
    monkeypatch.setattr(preconditions, "missing_packages", lambda: ["debootstrap"])
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    assert preconditions.ensure_packages() == ["debootstrap"]
    assert calls == ["install", "update", "install"]


def test_missing_packages_are_named_with_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sentence can be pasted into a shell."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(preconditions, "missing_packages", lambda: ["debootstrap", "systemd-container"])
    with pytest.raises(LabUnavailableError, match=r"apt-get install debootstrap systemd-container$"):
        preconditions.require_lab()


@pytest.mark.parametrize(("before", "after"), [("128\n", "4096"), ("8192\n", "8192\n")])
def test_a_kernel_limit_is_raised_and_never_lowered(tmp_path: Path, before: str, after: str) -> None:
    """Many hosts at once need more of it than the kernel gives at first; what is higher stays."""
    setting = tmp_path / "limit"
    setting.write_text(before)
    preconditions.raise_limit(setting, 4096)
    preconditions.raise_limit(tmp_path / "absent" / "limit", 4096)
    assert setting.read_text() == after
