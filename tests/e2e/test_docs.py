"""What the pages of docs/ tell operators to type works as it stands there, and prints what they say."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.container_images import lab_images, podman_on
from tests.e2e.fleets import ROOT, Fleet, small_fleet, wait_for
from tests.e2e.pages import FENCE, Block, Need, read, said
from tests.faults.rows import FULL
from tests.lab import ensure_image
from tests.lab.recipes import BASE

PAGES = sorted((ROOT / "docs").glob("*.md"))
TYPED = [page for page in PAGES if "```sh" in page.read_text(encoding="utf-8")]
SHORT = {"back-up", "troubleshoot-deploys"}
"""All pages together take a quarter of an hour and run in `make faults-deploy`; these stand for them elsewhere."""
SERVER = ROOT / "tests" / "openai_server.py"
PROGRAMS = Path(sys.executable).parent
SOURCES = ("pyproject.toml", "LICENSE", "config.py")
FOLDERS = ("rbee_deploy", "rbee_runtime", "templates", "requirements", "containerfiles")
BLOCK_SECONDS = 600
NO_SHELL = {"bash", "shell", "console", "zsh", "shell-session"}


@dataclass
class World:
    """One fleet with a spare host gpu2, and the machine of its operator."""

    fleet: Fleet
    folder: Path
    sources: Path = ROOT

    @property
    def environment(self) -> dict[str, str]:
        """Return what the shell of an operator knows."""
        cache = os.environ.get("XDG_CACHE_HOME") or f"{os.environ['HOME']}/.cache"
        key = self.fleet.lab.directory / "secrets" / "api-key"
        return {
            **os.environ,
            "PATH": f"{self.folder / 'bin'}:{PROGRAMS}:{os.environ['PATH']}",
            "TMPDIR": str(self.folder / "tmp"),
            "PYTHONPATH": str(self.sources),
            "HOME": str(self.folder),
            "XDG_CACHE_HOME": cache,
            "INVENTORY": str(self.fleet.inventory),
            "BUNDLE": str(self.folder / "bundle"),
            "RBEE_URL": self.fleet.url,
            "RBEE_API_KEY": key.read_text().strip() if key.is_file() else "",
        }

    def run(self, block: Block) -> tuple[int, str]:
        """Run commands where they are to be typed; return exit status and output."""
        if block.host:
            machine = self.fleet.lab.hosts[block.host]
            done = machine.run(f"exec 2>&1; set -e\n{block.script}", check=False, timeout=BLOCK_SECONDS)
            return done.returncode, said(done.stdout)
        return self.shell(block.script)

    def shell(self, script: str) -> tuple[int, str]:
        """Run commands on the operator's machine, both outputs as one."""
        done = subprocess.run(
            ["sh", "-e", "-c", script],
            cwd=self.folder,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
            text=True,
            timeout=BLOCK_SECONDS,
        )
        return done.returncode, said(done.stdout)

    def apply(self) -> None:
        """Bring the fleet to what inventory and sources say."""
        code, output = self.shell("rbee-deploy apply -i $INVENTORY")
        assert code == 0, output

    def other(self, name: str, path: str, text: str) -> None:
        """Have the operator use sources with a text at the end of one file."""
        self.sources = self.folder / name
        if not self.sources.exists():
            self.sources.mkdir()
            for part in SOURCES:
                shutil.copy(ROOT / part, self.sources / part)
            for part in FOLDERS:
                shutil.copytree(ROOT / part, self.sources / part, ignore=shutil.ignore_patterns("__pycache__"))
            with (self.sources / path).open("a", encoding="utf-8") as file:
                file.write(f"\n{text}\n")

    def declare(self, *names: str) -> None:
        """Have the inventory name these hosts."""
        for name in set(self.fleet.hosts) - set(names):
            del self.fleet.hosts[name]
        for name in names:
            if name not in self.fleet.hosts:
                self.fleet.declare(self.fleet.lab.hosts[name])


def begin(world: World) -> None:
    """Give the operator this rbee and an inventory of queen and gpu1, where nothing else listens."""
    world.sources = ROOT
    world.fleet.external = []
    world.fleet.options.pop("images", None)
    world.declare("queen", "gpu1")
    for host in world.fleet.hosts.values():
        host.pop("firewall", None)
    world.fleet.lab.hosts["gpu1"].run("systemctl stop ollama 2>/dev/null", check=False)


def deployed(world: World) -> None:
    """Bring queen and gpu1 to this rbee, whatever the page before left there."""
    purge = "rbee-deploy purge {} -i $INVENTORY --models --yes"
    for spare in ("gpu2", "gpu3"):
        if spare in world.fleet.hosts:
            world.shell(purge.format(spare))
    begin(world)
    world.shell("rbee-deploy lock -i $INVENTORY --release")
    world.apply()
    world.fleet.wait_ready("echo")


def bare(world: World) -> None:
    """Remove rbee from queen and gpu1."""
    begin(world)
    code, output = world.shell("rbee-deploy purge --all -i $INVENTORY --models --yes")
    assert code == 0, output


def joined(world: World) -> None:
    """Write gpu2 into the inventory."""
    world.declare("queen", "gpu1", "gpu2")


def newer(world: World) -> None:
    """Give the operator a newer rbee."""
    world.other("newer", "rbee_runtime/__init__.py", "# A newer release.")


def upgraded(world: World) -> None:
    """Bring the fleet to a newer release."""
    deployed(world)
    newer(world)
    world.apply()
    world.fleet.wait_ready("echo")


def bad(world: World) -> None:
    """Give the operator an rbee whose hive never becomes ready."""
    world.other("bad", "rbee_runtime/hive/attached.py", 'raise RuntimeError("a mistake in this release")')


def found(world: World) -> None:
    """Have somebody run what answers as an Ollama does on gpu1."""
    gpu = world.fleet.lab.hosts["gpu1"]
    gpu.put(SERVER.read_bytes(), "/srv/server.py")
    words = "exec -a ollama /usr/bin/python3 /srv/server.py --flavour ollama --host 0.0.0.0 --port 11434"
    gpu.run(f"systemd-run --unit ollama --collect bash -c {words!r}")
    wait_for("somebody's server", lambda: "11434" in gpu.run("ss -Hltn").stdout)


def adopted(world: World) -> None:
    """Write that server into the inventory."""
    url = f"http://{world.fleet.lab.hosts['gpu1'].address}:11434"
    world.fleet.external = [f'external("gpu1-ollama", url="{url}", models={{"llama3": "llama3:latest"}}, slots=4),']


def guarded(world: World) -> None:
    """Write a firewall for queen and gpu1 into the inventory."""
    for name in ("queen", "gpu1"):
        world.fleet.hosts[name]["firewall"] = "nftables"


def with_podman(world: World) -> None:
    """Write gpu3 into the inventory, and have the operator's Podman be the one there: this machine may have none."""
    host = world.fleet.lab.hosts["gpu3"]
    base = "tar -C /srv/base --one-file-system -c . | podman import --quiet - python:3.13-slim-trixie"
    host.run(base, timeout=BLOCK_SECONDS)
    world.declare("queen", "gpu1", "gpu3")
    podman_on(world.fleet.lab.name, "gpu3", world.folder / "bin")


def spare(world: World) -> None:
    """Have gpu3 in the fleet, with nothing in a container."""
    world.declare("queen", "gpu1", "gpu3")
    bare_again(world)
    world.apply()
    world.fleet.wait_ready("echo", 2)


def contained(world: World) -> None:
    """Write the folder of images into the inventory, and containers for the workers of gpu3."""
    world.declare("queen", "gpu1", "gpu3")
    world.fleet.options["images"] = str(lab_images())
    world.fleet.hosts["gpu3"]["worker_runtime"] = "container"


def housed(world: World) -> None:
    """Write containers for hive and workers of gpu3."""
    contained(world)
    world.fleet.hosts["gpu3"] |= {"mode": "container", "worker_runtime": "container"}


def rootless(world: World) -> None:
    """Write containers without root for hive and workers of gpu3."""
    housed(world)
    world.fleet.hosts["gpu3"] |= {"engine": "podman", "rootless": True}


def by_docker(world: World) -> None:
    """Write Docker for the containers of gpu3."""
    housed(world)
    world.fleet.hosts["gpu3"]["engine"] = "docker"


def bare_again(world: World) -> None:
    """Write no container for gpu3."""
    world.fleet.hosts["gpu3"] |= {"mode": "bare", "worker_runtime": "process", "rootless": False}


STATES: dict[str, Callable[[World], None]] = {
    "a deployed fleet": deployed,
    "hosts without rbee": bare,
    "gpu2 in the inventory": joined,
    "a newer rbee": newer,
    "an upgraded fleet": upgraded,
    "a firewall in the inventory": guarded,
    "an Ollama on gpu1": found,
    "that Ollama in the inventory": adopted,
    "gpu3 in the inventory": with_podman,
    "containers for its workers": contained,
    "containers for all of gpu3": housed,
    "containers without root for gpu3": rootless,
    "gpu3 in the fleet": spare,
    "Docker for all of gpu3": by_docker,
    "gpu3 bare again": bare_again,
    "an rbee whose hive does not start": bad,
}
"""What pages may need, in the words of their comments."""

BEGINNINGS = {"a deployed fleet", "an upgraded fleet", "hosts without rbee"}
"""Those that hold whatever was there before; a page that begins with none of them gets a deployed fleet."""


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Give queen, gpu1 and a spare gpu2, and a model that every hive serves."""
    with small_fleet("docs") as fleet:
        folder = tmp_path_factory.mktemp("docs")
        (folder / "tmp").mkdir()
        fleet.lab.add_host("gpu2")
        binds = [(folder, str(folder), False), (ensure_image(BASE.name), "/srv/base", True)]
        fleet.lab.add_host("gpu3", image="containers", binds=binds)
        fleet.models["echo"] = {"name": "echo", "source": "fake:tokens_per_s=50,tokens=20", "replicas": "each_host"}
        yield World(fleet, folder)


@pytest.mark.lab
@pytest.mark.parametrize("page", [page for page in TYPED if FULL or page.stem in SHORT], ids=lambda page: page.stem)
def test_a_page_is_true(world: World, page: Path) -> None:
    """Every command of the page ends with the stated status and prints what the page says."""
    items = read(page)
    if not (isinstance(items[0], Need) and items[0].state in BEGINNINGS):
        deployed(world)
    for item in items:
        if isinstance(item, Need):
            STATES[item.state](world)
            continue
        code, output = world.run(item)
        where = f"{page.name}, line {item.line}, ended with {code} and said:\n{output}"
        assert code == item.status, where
        assert item.expected.fullmatch(output), where


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_no_command_escapes(page: Path) -> None:
    """Every command block of a page is one that runs, has a result, and needs what the tests can provide."""
    text = page.read_text(encoding="utf-8")
    items = read(page)
    kinds = [found["kind"] for found in FENCE.finditer(text)]
    assert kinds.count("sh") == sum(isinstance(item, Block) for item in items)
    assert not {"", *NO_SHELL} & set(kinds)
    assert text.count("```") == 2 * len(kinds)
    assert {item.state for item in items if isinstance(item, Need)} <= STATES.keys()
    assert re.search(r"<!-- (?!needs: |on: )", text) is None


def test_pages_are_short() -> None:
    """A page for operators has at most 80 lines, but for tables and the one that has a machine on each side."""
    longer = {"checks.md", "commands.md", "keeper.md", "troubleshoot-hive.md", "air-gap.md"}
    assert {page.name for page in PAGES if len(page.read_text(encoding="utf-8").splitlines()) > 80} <= longer


@pytest.mark.parametrize(
    ("result", "output", "same"),
    [
        ("gpu1 free", "gpu1    free", True),
        ("gpu1 free", "gpu1 frozen", False),
        ("gpu1 free", "gpu1 free\nqueen free", False),
        ("gpu1 … changed", "gpu1  stage  31.2 s  changed", True),
        ("gpu1 … changed", "gpu1  stage  31.2 s  failed", False),
        ("gpu1 stage … changed", "gpu1 stage changed", False),
        ("…\nlast", "first\nsecond\nlast", True),
        ("…\nlast", "last", True),
        ("…\nlast", "last\nbut one", False),
        ("(a|b).", "(a|b).", True),
        ("exit status 2", "", True),
    ],
)
def test_a_result_is_held_to_what_a_page_says(result: str, output: str, same: bool) -> None:
    """Every line has to be there in its order; dots stand for text or for lines, and nothing else is special."""
    assert (Block(1, "", result).expected.fullmatch(said(output)) is not None) is same


def test_a_stated_status_is_the_one_that_is_asked_for() -> None:
    """A last line names the exit status; without it commands have to succeed."""
    assert Block(1, "", "gpu1 differs\nexit status 2\n").status == 2
    assert Block(1, "", "gpu1 differs\n").status == 0


@pytest.mark.parametrize("after", ["", "```python\nhost()\n```\n", "```sh\ntrue\n```\n```text\n```\n"])
def test_a_command_without_a_result_is_refused(tmp_path: Path, after: str) -> None:
    """A page cannot leave open what commands print."""
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n```sh\nls\n```\n\n{after}", encoding="utf-8")
    with pytest.raises(ValueError, match=r"page\.md, line 3: no ```text block"):
        read(page)
