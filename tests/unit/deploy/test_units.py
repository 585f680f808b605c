"""The rendered units as systemd itself judges them."""

import shutil
import subprocess
from pathlib import Path

import pytest

from rbee_deploy.inventory import host, store
from rbee_deploy.render import owned_files
from rbee_deploy.site import Site
from tests.unit.deploy.sites import contained, fenced, one_box, site_of, state_of, two_hosts

SITES = {"one-box": one_box, "two-hosts": two_hosts, "fenced": fenced, "contained": contained}
HOSTS = [(name, item.name) for name, build in SITES.items() for item in build().hosts]
EXPOSURE = {
    "rbee-queen.service": 15,
    "rbee-hive.service": 20,
    "rbee-worker@.service": 20,
    "rbee-workers.service": 20,
    "rbee-guard.service": 15,
    "rbee-firewall.service": 25,
    "rbee-network.service": 20,
}
"""Tenths: a stock daemon scores 23 to 96."""

OPEN = {"rbee-podman.service"}
"""What makes containers has to be able to do all that a container may need."""

STOCK_UNITS = "usr/lib/systemd/system"


def write_root(root: Path, site: Site, name: str) -> list[str]:
    """Lay out a host's units, the programs that they start and systemd's own units under `root`; return our units."""
    item = next(item for item in site.hosts if item.name == name)
    units = [file for file in owned_files(site, item, state_of(site)) if file.is_unit]
    shutil.copytree(f"/{STOCK_UNITS}", root / STOCK_UNITS, symlinks=True)
    (root / "lib").symlink_to("usr/lib")
    programs = root / "opt/rbee/current/bin"
    programs.mkdir(parents=True)
    for program in ("rbee-queen", "rbee-hive", "rbee-worker", "python"):
        (programs / program).touch(mode=0o755)
    (root / "usr/bin").mkdir(parents=True)
    for program in ("podman", "nft", "rm", "touch"):
        (root / "usr/bin" / program).touch(mode=0o755)
    for unit in units:
        path = root / unit.path.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(unit.text())
    return [Path(unit.path).name for unit in units]


def analyze(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["systemd-analyze", *arguments], capture_output=True, text=True, timeout=60, check=False, env={"LC_ALL": "C"}
    )


def verify(root: Path, units: list[str]) -> str:
    started = [unit.replace("@.", "@smol-0a1b2c.") for unit in units]
    return analyze("verify", "--man=no", f"--root={root}", *started).stderr


@pytest.mark.parametrize(("site", "name"), HOSTS)
def test_verify_is_silent(site: str, name: str, tmp_path: Path) -> None:
    """`systemd-analyze verify` has nothing to say about any unit of any host."""
    assert verify(tmp_path, write_root(tmp_path, SITES[site](), name)) == ""


def test_verify_would_speak(tmp_path: Path) -> None:
    """The check above sees an unknown key and a program that is not there, so its silence means something."""
    units = write_root(tmp_path, one_box(), "box1")
    broken = tmp_path / "etc/systemd/system/rbee-queen.service"
    broken.write_text(broken.read_text().replace("KillMode=", "KilMode="))
    (tmp_path / "opt/rbee/current/bin/rbee-hive").unlink()
    said = verify(tmp_path, units)
    assert "Unknown key 'KilMode'" in said
    assert "rbee-hive is not executable" in said


@pytest.mark.parametrize(("site", "name"), HOSTS)
def test_units_are_sandboxed(site: str, name: str, tmp_path: Path) -> None:
    """Queen scores at most 1.5, hive and worker 2.0 and the firewall 2.5 in `systemd-analyze security`."""
    write_root(tmp_path, SITES[site](), name)
    units = [unit for unit in (tmp_path / "etc/systemd/system").glob("*.service") if unit.name not in OPEN]
    limits = {unit: EXPOSURE[unit.name] for unit in units}
    judged = {
        unit.name: analyze("security", "--offline=true", f"--threshold={limit}", str(unit))
        for unit, limit in limits.items()
    }
    assert {unit: done.stdout.strip()[-80:] for unit, done in judged.items() if done.returncode != 0} == {}
    assert judged


def settings(site: Site, unit: str) -> list[str]:
    files = {Path(file.path).name: file.text() for file in owned_files(site, site.hosts[-1], state_of(site))}
    return files[unit].splitlines()


@pytest.mark.parametrize(
    "unit", ["rbee-queen.socket", "rbee-queen.service", "rbee-hive.service", "rbee-worker@.service"]
)
def test_one_command_stops_everything(unit: str) -> None:
    """`systemctl stop rbee.target` reaches every unit, and those that start at boot are wanted by it."""
    lines = settings(one_box(), unit)
    assert "PartOf=rbee.target" in lines
    assert ("WantedBy=rbee.target" in lines) == (unit != "rbee-worker@.service")


def test_a_store_in_a_home_folder_stays_visible() -> None:
    """models_dir under /home reaches hive and workers although the rest of /home is hidden from them."""
    hive, worker = (settings(two_hosts(), unit) for unit in ("rbee-hive.service", "rbee-worker@.service"))
    assert {"ProtectHome=tmpfs", "BindPaths=/home/me/models"} <= set(hive)
    assert {"ProtectHome=tmpfs", "BindReadOnlyPaths=/home/me/models"} <= set(worker)


def test_a_cache_in_a_home_folder_becomes_visible() -> None:
    """Hive and workers may read a declared cache under /home and nothing else there; one elsewhere needs no line."""
    caches = store(hf_caches=["/home/me/.cache/huggingface", "/srv/hf"])
    site = site_of(host("q", address="192.0.2.1", queen=True, store=caches))
    hive, worker = (settings(site, unit) for unit in ("rbee-hive.service", "rbee-worker@.service"))
    for lines in (hive, worker):
        assert [line for line in lines if "/me/" in line or "hf" in line] == [
            "BindReadOnlyPaths=-/home/me/.cache/huggingface"
        ]
        assert "ProtectHome=tmpfs" in lines
    assert "ReadWritePaths=/var/lib/rbee/models" in hive


def test_only_a_host_with_vllm_lets_workers_ask_for_addresses() -> None:
    """Its processes ask the kernel for those of the host; other engines have no reason to."""
    plain = settings(site_of(host("q", queen=True)), "rbee-worker@.service")
    with_vllm = settings(site_of(host("q", queen=True, engines=["vllm"])), "rbee-worker@.service")
    added = [line for line in with_vllm if line not in plain and not line.startswith("#")]
    assert added == ["RestrictAddressFamilies=AF_NETLINK"]
