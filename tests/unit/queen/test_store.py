"""What survives: keys, drains, assignments, the epoch."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from rbee_runtime.errors import ConfigError, RequestError, StateError
from rbee_runtime.protocol import WorkerSpec
from rbee_runtime.queen.fleet import FleetSource
from rbee_runtime.queen.keys import Keys, digest, generate
from rbee_runtime.queen.records import Assignment, HiveRecord, Priority, Scope
from rbee_runtime.queen.store import Store
from rbee_runtime.states import Intent, Observed
from tests.unit.queen.states import fleet, model

SEEN = Assignment(
    spec=WorkerSpec(id="m-1", model="m", engine="fake", options={"tokens": 3}),
    hive="a",
    content="c",
    intent=Intent.LOST,
    address="127.0.0.1",
    port=9000,
    observed=Observed.READY,
    slots=4,
)


def test_everything_comes_back(tmp_path: Path) -> None:
    """A new process finds keys, hives and assignments as they were."""
    store = Store(tmp_path)
    keys = Keys(store)
    record, _ = keys.create("n", [Scope.INFER], ["m*"])
    store.put_hive(HiveRecord("a", "http://a", drained=True))
    store.change_assignments([SEEN], ())
    store.close()
    again = Store(tmp_path)
    assert again.all_keys() == [record]
    assert again.hives() == [HiveRecord("a", "http://a", drained=True)]
    assert again.assignments() == [SEEN]
    again.change_assignments([replace(SEEN, port=9001)], ())
    assert [entry.port for entry in again.assignments()] == [9001]
    again.change_assignments((), ["m-1"])
    assert again.assignments() == []
    again.close()


def test_a_worker_never_moves_to_another_hive(tmp_path: Path) -> None:
    """Even a wrong caller cannot give one id to two hives."""
    store = Store(tmp_path)
    store.change_assignments([SEEN, replace(SEEN, hive="b")], ())
    assert [entry.hive for entry in store.assignments()] == ["a"]
    store.close()


def test_the_epoch_rises_with_each_start(tmp_path: Path) -> None:
    """Hives tell an older queen from a newer one by it."""
    for expected in (1, 2, 3):
        store = Store(tmp_path)
        assert store.start_epoch("f") == expected
        store.close()


def test_state_of_another_fleet_is_refused(tmp_path: Path) -> None:
    """A state directory serves one fleet."""
    store = Store(tmp_path)
    store.start_epoch("one")
    with pytest.raises(StateError, match="belongs to fleet 'one'"):
        store.start_epoch("two")
    store.close()


def test_a_second_store_is_refused_and_a_patient_one_waits(tmp_path: Path) -> None:
    """One process at a time; the next one of a restart gets its turn."""
    first = Store(tmp_path)
    with pytest.raises(StateError, match="another queen uses"):
        Store(tmp_path)
    second = Store(tmp_path, lock_wait=1.0, sleep=lambda _: first.close())
    second.close()


def test_a_newer_schema_is_refused_in_one_sentence(tmp_path: Path) -> None:
    """A downgrade names its way out."""
    Store(tmp_path).close()
    with sqlite3.connect(tmp_path / "queen.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StateError, match="newer rbee"):
        Store(tmp_path)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """Damage is a sentence, not a traceback, and the lock is free again."""
    (tmp_path / "queen.db").write_bytes(b"not a database" * 100)
    for _ in range(2):
        with pytest.raises(StateError, match="restore it from a backup"):
            Store(tmp_path)


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    """A change of several assignments is all or nothing."""
    store = Store(tmp_path)
    broken = replace(SEEN, spec=replace_id("m-2"), port=None)  # type: ignore[arg-type]
    with pytest.raises(StateError, match="cannot write"):
        store.change_assignments([SEEN, broken], ())
    assert store.assignments() == []
    store.close()


def replace_id(worker_id: str) -> WorkerSpec:
    return WorkerSpec(id=worker_id, model="m", engine="fake")


@pytest.fixture
def keys(tmp_path: Path) -> Iterator[Keys]:
    """Give keys over a store."""
    store = Store(tmp_path / "state")
    yield Keys(store)
    store.close()


def test_a_key_is_shown_once_and_kept_as_a_digest(keys: Keys, tmp_path: Path) -> None:
    """The state directory never holds a key."""
    record, key = keys.create("n", [Scope.INFER])
    assert keys.authenticate(f"Bearer {key}") == record
    files = b"".join(path.read_bytes() for path in (tmp_path / "state").iterdir())
    assert key.encode() not in files
    assert record.digest.encode() in files


@pytest.mark.parametrize(
    "wrong", ["", "Bearer ", "Basic KEY", "Bearer KEYx", "Bearer rbee_aaaaaaaa_" + "b" * 43, "KEY"]
)
def test_nothing_but_the_key_is_the_key(keys: Keys, wrong: str) -> None:
    """Missing, malformed, unknown and wrong keys are all nobody."""
    _, key = keys.create("n", [Scope.INFER])
    assert keys.authenticate(wrong.replace("KEY", key)) is None


def test_the_empty_id_opens_nothing(keys: Keys) -> None:
    """The record that stands in for unknown ids is no key."""
    assert keys.get("") is None
    assert keys.authenticate("Bearer rbee__x") is None


def test_revoking_is_immediate_and_lasts(keys: Keys) -> None:
    """A revoked key stops working with the next request."""
    keys.create("admin", [Scope.ADMIN_WRITE])
    record, key = keys.create("n", [Scope.INFER])
    keys.revoke(record.id)
    assert keys.authenticate(f"Bearer {key}") is None
    with pytest.raises(RequestError, match="there is no key"):
        keys.revoke(record.id)


def test_who_names_a_key_by_its_name_gets_the_id(keys: Keys) -> None:
    """Names are no keys of keys, but what a person remembers; revoked ones are not offered."""
    keys.create("admin", [Scope.ADMIN_WRITE])
    record, gone = keys.create("guest", [Scope.INFER])[0], keys.create("guest", [Scope.INFER])[0]
    keys.revoke(gone.id)
    with pytest.raises(RequestError, match=f"no key 'guest'; keys are revoked by id, and called that: {record.id}$"):
        keys.revoke("guest")


def test_the_last_admin_key_stays(keys: Keys) -> None:
    """Nobody locks themselves out."""
    record, _ = keys.create("n", [Scope.ADMIN_WRITE])
    with pytest.raises(RequestError, match="is the last admin key; create another one first"):
        keys.revoke(record.id)


def test_the_bootstrap_key_is_imported_once(keys: Keys, tmp_path: Path) -> None:
    """The operator's key works, and revoking it outlives the file."""
    key, key_id = generate()
    path = tmp_path / "bootstrap"
    path.write_text(f"{key_id}:{digest(key)}\n")
    assert keys.import_bootstrap(path)
    assert keys.authenticate(f"Bearer {key}") is not None
    keys.create("other", Scope, priority=Priority.INTERACTIVE)
    keys.revoke(key_id)
    assert not keys.import_bootstrap(path)
    assert keys.authenticate(f"Bearer {key}") is None


def test_a_bad_bootstrap_file_is_refused(keys: Keys, tmp_path: Path) -> None:
    """A key in place of its digest is not taken."""
    path = tmp_path / "bootstrap"
    path.write_text(generate()[0])
    with pytest.raises(ConfigError, match="run the deploy again"):
        keys.import_bootstrap(path)


def test_a_bad_edit_of_the_fleet_file_keeps_the_old_one(tmp_path: Path) -> None:
    """The last good file stays in force, over a restart too, and the problem is named."""
    path, store = tmp_path / "fleet.yaml", Store(tmp_path / "state")
    path.write_text(yaml.safe_dump(fleet(model("one")).model_dump(mode="json")))
    source = FleetSource(path, store)
    path.write_text("models: [{name: 'no good', source: 'fake:', engine: fake}]")
    assert not source.poll()
    assert "no good" in source.problem
    assert [each.name for each in FleetSource(path, store).current.models] == ["one"]
    path.write_text(yaml.safe_dump(fleet(model("two"), model("three")).model_dump(mode="json")))
    assert source.poll()
    assert (source.problem, [each.name for each in source.current.models]) == ("", ["two", "three"])
    store.close()


def test_a_name_declared_twice_is_refused(tmp_path: Path) -> None:
    """Two models of one name would be one of them by chance."""
    path, store = tmp_path / "fleet.yaml", Store(tmp_path / "state")
    path.write_text(yaml.safe_dump(fleet(model(), model()).model_dump(mode="json")))
    with pytest.raises(ConfigError, match="model 'm' is declared twice"):
        FleetSource(path, store)
    store.close()
