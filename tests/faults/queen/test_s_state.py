"""A real queen whose database, disk or files fail, or who is killed. Figures: queen_rows.yaml."""

import contextlib
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import httpx
import pytest
import yaml

from tests.faults.rows import row
from tests.unit.queen.units import PATIENCE, ROOT, Unit, unit, wait_until

pytestmark = pytest.mark.slow

Figures = Callable[[str, object], None]
HIVES = ("a", "b")
FLEET: dict[str, object] = {
    "hives": [{"name": name} for name in HIVES],
    "models": [{"name": "m", "source": "fake:", "engine": "fake", "replicas_min": 0}],
}


@dataclass
class Writers:
    """Clients that write without a pause; what the queen said yes to is in `keys` and `drained`."""

    unit: Unit
    keys: set[str] = field(default_factory=set)
    drained: dict[str, bool] = field(default_factory=dict)
    acknowledged: int = 0

    def create(self) -> None:
        """Create keys until the queen is gone."""
        with contextlib.suppress(httpx.HTTPError), self._client() as client:
            while True:
                answer = client.post("/api/v1/keys", json={"name": "w"})
                assert answer.status_code == 201, answer.text
                self.keys.add(answer.json()["id"])
                self.acknowledged += 1

    def drain(self, hive: str) -> None:
        """Drain a hive and take it back until the queen is gone; what was not acknowledged may be either way."""
        with contextlib.suppress(httpx.HTTPError), self._client() as client:
            while True:
                for verb in ("drain", "undrain"):
                    self.drained.pop(hive, None)
                    assert client.post(f"/api/v1/hives/{hive}/{verb}").status_code == 200
                    self.drained[hive] = verb == "drain"
                    self.acknowledged += 1

    def _client(self) -> httpx.Client:
        return httpx.Client(base_url=self.unit.url, headers=self.unit.headers, timeout=PATIENCE)


def damage(u: Unit) -> str:
    """Return what SQLite finds wrong with a queen's database, "ok" for nothing."""
    with contextlib.closing(sqlite3.connect(u.directory / "state" / "queen.db")) as db:
        return str(db.execute("PRAGMA quick_check").fetchone()[0])


def is_ready(u: Unit) -> bool:
    """Say whether a queen answers that she is ready; one that takes over from herself may drop a connection."""
    with contextlib.suppress(httpx.TransportError):
        return u.get("/ready").status_code == 200
    return False


def add_key(u: Unit) -> httpx.Response:
    return httpx.post(f"{u.url}/api/v1/keys", json={"name": "k"}, headers=u.headers, timeout=PATIENCE)


def test_s1_what_was_acknowledged_survives_a_kill(tmp_path: Path, record_property: Figures) -> None:
    """Every key and drain that a client was told of is there after each of many kills, and the file is sound."""
    row_, rng = row("S1", "queen"), random.Random(1)
    with unit(tmp_path / "unit", FLEET) as u:
        writers, writing = Writers(u), 0.0
        for _ in range(row_.figure("kills")):
            u.start()
            listed = {key["id"] for key in u.get("/api/v1/keys").json()}
            states = {hive["name"]: hive["drained"] for hive in u.get("/api/v1/hives").json()}
            assert writers.keys <= listed
            assert writers.drained.items() <= states.items()
            with ThreadPoolExecutor(4) as pool:
                asked = [pool.submit(writers.create), *(pool.submit(writers.drain, hive) for hive in HIVES)]
                begun = time.monotonic()
                time.sleep(rng.uniform(0.2, row_.figure("longest_seconds")))
                u.kill()
                writing += time.monotonic() - begun
            assert [each.result() for each in asked] == [None] * 3
            assert damage(u) == "ok"
        record_property("acknowledged", writers.acknowledged)
        record_property("per_second", round(writers.acknowledged / writing))
        assert writers.acknowledged >= row_.figure("kills")


def test_s3_a_full_disk_stops_no_answer(tmp_path: Path) -> None:
    """With no byte left for the database the queen serves on, says so at /ready, refuses new keys, and recovers."""
    with unit(tmp_path / "unit", FLEET) as u:
        main = u.start()
        wal = u.directory / "state" / "queen.db-wal"
        full = (wal.stat().st_size, resource.RLIM_INFINITY)
        resource.prlimit(main.child, resource.RLIMIT_FSIZE, full)
        refused = add_key(u)
        assert (refused.status_code, "free space" in refused.text) == (503, True)
        drained = httpx.post(f"{u.url}/api/v1/hives/a/drain", headers=u.headers, timeout=PATIENCE)
        assert drained.status_code == 200
        said = u.get("/ready")
        assert (said.status_code, "cannot write" in said.json()["detail"]) == (200, True)
        assert u.get("/v1/models").status_code == 200
        resource.prlimit(main.child, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert httpx.post(f"{u.url}/api/v1/hives/a/drain", headers=u.headers, timeout=PATIENCE).status_code == 200
        assert u.get("/ready").json()["detail"] == ""
        assert main.process.poll() is None


DROP_ROOTS_RIGHTS = """
import ctypes

# Root writes whatever the mode says: what this process starts may not (CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH).
for right in (1, 2):
    ctypes.CDLL(None).prctl(24, right, 0, 0, 0)
from rbee_runtime.queen.main import main

main()
"""


@contextlib.contextmanager
def sealed(folder: Path) -> Iterator[None]:
    """Take the right to write from a folder and what is in it."""
    modes = {path: path.stat().st_mode for path in (folder, *folder.iterdir())}
    for path in modes:
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


def epoch(u: Unit) -> int:
    return int(u.get("/health").json()["epoch"])


def test_s3_a_queen_starts_on_a_database_that_she_cannot_write(tmp_path: Path) -> None:
    """She serves from memory with the keys of before, says so at /ready, and is an ordinary one afterwards."""
    with unit(tmp_path / "unit", FLEET) as u:
        u.code = ("-c", DROP_ROOTS_RIGHTS)
        u.start()
        made, before = add_key(u).json()["id"], epoch(u)
        u.kill()
        with sealed(u.directory / "state"):
            u.start()
            said = u.get("/ready")
            assert (said.status_code, "serves from memory" in said.json()["detail"]) == (200, True)
            assert made in {key["id"] for key in u.get("/api/v1/keys").json()}
            assert (add_key(u).status_code, epoch(u)) == (503, before)
            u.kill()
        u.start()
        assert (u.get("/ready").json()["detail"], add_key(u).status_code, epoch(u)) == ("", 201, before + 1)


def test_s3_a_damaged_page_stops_no_answer_and_is_a_sentence_at_the_next_start(tmp_path: Path) -> None:
    """What runs serves on; what starts says what is damaged and what to do, and refuses until that is done."""
    with unit(tmp_path / "unit", FLEET) as u:
        main = u.start()
        file = u.directory / "state" / "queen.db"
        with contextlib.closing(sqlite3.connect(file)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        with file.open("r+b") as pages:
            pages.seek(4096)
            pages.write(os.urandom(file.stat().st_size - 4096))
        for _ in range(3):
            assert u.get("/v1/models").status_code == 200
            assert add_key(u).status_code in (201, 503)
        assert main.process.poll() is None
        u.kill()
        main = u.start()
        refused = [u.get(path) for path in ("/v1/models", "/api/v1/keys", "/health", "/ready")]
        headers = [(answer.headers["retry-after"], answer.headers["connection"]) for answer in refused]
        assert ({answer.status_code for answer in refused}, set(headers)) == ({503}, {("30", "close")})
        assert {answer.json()["error"]["code"] for answer in refused[:3]} == {"state_damaged"}
        assert "restore it from a backup" in refused[3].json()["detail"]
        assert "restore it from a backup" in u.log.read_text().splitlines()[-1]
        os.kill(main.child, signal.SIGSTOP)
        for each in file.parent.glob("queen.db*"):
            each.rename(each.with_name(f"{each.name}.away"))
        os.kill(main.child, signal.SIGCONT)
        wait_until(lambda: is_ready(u))
        assert (u.get("/v1/models").status_code, main.process.poll()) == (200, None)
        assert add_key(u).status_code == 201


def test_s3_a_queen_that_refuses_leaves_when_she_is_asked(tmp_path: Path) -> None:
    """A stop, a deploy or a restore does not wait for what nobody repairs."""
    with unit(tmp_path / "unit", FLEET) as u:
        (u.directory / "state").mkdir()
        (u.directory / "state" / "queen.db").write_bytes(b"not a database" * 100)
        main = u.start()
        assert u.get("/v1/models").status_code == 503
        main.signal(signal.SIGTERM)
        assert main.process.wait(PATIENCE) == 0
        assert (u.directory / "state" / "queen.db").read_bytes() == b"not a database" * 100


def test_s3_damage_on_a_laptop_ends_the_start(tmp_path: Path) -> None:
    """The person who starts a queen for this machine alone reads the sentence, with status 1."""
    (tmp_path / "queen").mkdir()
    (tmp_path / "queen" / "queen.db").write_bytes(b"not a database" * 100)
    options = ["--attached-hive", "--model", "m=fake:", "--port", "0", "--state-dir", str(tmp_path)]
    command = [sys.executable, "-m", "rbee_runtime.queen.main", *options]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert ended.returncode == 1
    assert "restore it from a backup or move it away" in ended.stderr


def test_s4_a_lock_that_somebody_else_holds_is_waited_for(tmp_path: Path, record_property: Figures) -> None:
    """While another process has the database for itself, writes take longer and nobody hears of a lock."""
    seconds = row("S4", "queen").figure("seconds")
    with unit(tmp_path / "unit", FLEET) as u:
        u.start()
        with (
            contextlib.closing(sqlite3.connect(u.directory / "state" / "queen.db")) as db,
            ThreadPoolExecutor(8) as pool,
        ):
            db.execute("BEGIN IMMEDIATE")
            begun = time.monotonic()
            asked = [pool.submit(add_key, u) for _ in range(4)]
            asked += [pool.submit(u.get, "/v1/models") for _ in range(4)]
            time.sleep(seconds)
            db.rollback()
            answers = [each.result() for each in asked]
            record_property("slowest_seconds", round(time.monotonic() - begun, 1))
        assert sorted(answer.status_code for answer in answers) == [200] * 4 + [201] * 4
        assert u.get("/ready").json()["detail"] == ""
        assert "locked" not in u.log.read_text()


BAD_FILES = {
    "no YAML": ("models: [\n  {name: m\n", "line 3"),
    "unknown field": (
        "hives: []\nmodels:\n  - name: m\n    source: 'fake:'\n    engine: fake\n    slotz: 4\n",
        "line 6",
    ),
    "wrong value": ("models:\n  - name: m\n    source: 'fake:'\n    engine: fake\n    slots: many\n", "line 5"),
}


def told(u: Unit, line: str) -> bool:
    return line in u.get("/ready").json()["detail"]


def test_s5_a_bad_fleet_file_changes_nothing(tmp_path: Path) -> None:
    """The fleet of before serves on, /ready and `rbee-queen --check` name the line, and a good file is taken again."""
    with unit(tmp_path / "unit", FLEET) as u:
        u.start()
        check = [
            sys.executable,
            "-m",
            "rbee_runtime.queen.main",
            "--check",
            "--config",
            str(u.directory / "queen.yaml"),
        ]
        for text, line in BAD_FILES.values():
            (u.directory / "fleet.yaml").write_text(text)
            wait_until(partial(told, u, line))
            assert [model["id"] for model in u.get("/v1/models").json()["data"]] == ["m"]
            checked = subprocess.run(check, cwd=ROOT, capture_output=True, text=True, check=False)
            assert (checked.returncode, checked.stderr.count("\n"), line in checked.stderr) == (1, 1, True)
        (u.directory / "fleet.yaml").write_text(yaml.safe_dump(FLEET))
        wait_until(lambda: u.get("/ready").json()["detail"] == "")
