"""What a rotation and a restore say of keys, by what the queen's host answered."""

from tests import unpatched  # noqa: F401, I001 - before the command line, which loads pyinfra

import argparse
import contextlib
import json
import sqlite3
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_deploy import advised, api_keys, interrupt, remembered
from rbee_deploy.authority import CLIENT_ROLE, EXPORTED, FleetAuthority, site_state
from rbee_deploy.cli import database, maintaining, rotating, running
from rbee_deploy.errors import DeployError
from rbee_deploy.operations import ask, noting
from rbee_deploy.plan import Workshop
from tests.unit.deploy.sites import two_hosts


def options(folder: Path, **more: Any) -> argparse.Namespace:
    """Return what a person typed, on a fleet whose secrets lie in a folder."""
    site = replace(two_hosts(), secrets_dir=str(folder / "secrets"))
    return argparse.Namespace(
        site=site, inventory="x.py", document=True, told={}, advice=[], revoke_old=False, what="api-key", **more
    )


def answering(monkeypatch: pytest.MonkeyPatch, answer: Any) -> None:
    """Have every run succeed, and the queen's host answer this."""
    monkeypatch.setattr(running, "go", lambda *_, **__: 0)
    host = SimpleNamespace(host=SimpleNamespace(connector_data={ask.ANSWER: answer}))
    monkeypatch.setattr(running, "hosts", lambda: iter([host]))


@pytest.mark.parametrize("is_known", [True, False])
def test_a_rotation_says_whether_the_old_key_works(
    is_known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a restore of an older backup the queen may not know the key before: then it is not called working."""
    typed = options(tmp_path)
    FleetAuthority.open(typed.site.secrets, typed.site.name)
    old = api_keys.key_id(api_keys.current(typed.site.secrets))
    answering(monkeypatch, ["another", *([old] if is_known else [])])
    assert rotating._rotate(typed) == 0
    assert typed.told["old_key_works"] is is_known


@pytest.mark.parametrize(
    ("keys", "advice"),
    [
        ([], []),
        ([{"id": "k", "name": "ann", "became": "valid again"}], ["rbee-keeper keys revoke k ends it"]),
        (
            [{"id": "k", "name": "ann", "became": "gone"}],
            ["whoever uses it needs another one, by rbee-keeper keys create"],
        ),
    ],
)
def test_a_restore_names_keys_and_what_to_do(
    keys: list[dict[str, str]], advice: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The document has the keys, the copy, and the advice that a person reads."""
    answering(monkeypatch, [json.dumps({"kept": "/k.db", "keys": keys})])
    typed = options(tmp_path, file=backup(tmp_path))
    assert database._restore(typed) == 0
    assert (typed.told["keys"], typed.told["kept"], typed.advice) == (keys, "/k.db", advice)


def test_a_release_that_says_nothing_of_keys_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The activator of an older release prints nothing: that is not taken for no change."""
    answering(monkeypatch, [])
    typed = options(tmp_path, file=backup(tmp_path))
    assert database._restore(typed) == 0
    assert typed.advice == [
        "look through rbee-keeper keys list: keys that were revoked since the backup are valid again"
    ]


def backup(folder: Path) -> Path:
    """Return the database of a queen as a file."""
    file = folder / "queen.db"
    with contextlib.closing(sqlite3.connect(file)) as db:
        db.execute("CREATE TABLE meta (name TEXT)")
        db.execute("CREATE TABLE keys (id TEXT)")
    return file


def test_a_new_key_is_for_a_fleet_that_serves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Before anything is deployed for it, the queen's host is asked whether there ever was a deploy."""
    typed = options(tmp_path, limit=[])
    asked: list[Any] = []

    def go(*_: object, wanted: Callable[[Any], Any]) -> int:
        asked.extend(wanted(typed.site))
        return 1

    monkeypatch.setattr(running, "go", go)
    monkeypatch.setattr(running, "hosts", lambda: iter([]))
    with pytest.raises(DeployError, match="does not take"):
        rotating._rotate(typed)
    accepts: list[Any] = []
    monkeypatch.setattr(ask, "looked", lambda **given: accepts.append(given["accept"]))
    asked[0].steps[0][1](SimpleNamespace(undeployed="the reasons"), "name")
    assert (asked[0].title, accepts) == ("look", ["the reasons"])


def certificates(typed: argparse.Namespace) -> dict[str, str]:
    """Return the certificates that the operator keeps for hosts, made where they are missing."""
    authority = FleetAuthority.open(typed.site.secrets, typed.site.name)
    state = site_state(authority, typed.site, release="", models={})
    return {" ".join(key): each.pem for key, each in state.certificates.items()}


def running_until(monkeypatch: pytest.MonkeyPatch, typed: argparse.Namespace, end: str, status: int) -> list[str]:
    """Have a run go through the steps of all stages before one, for two hosts, and return the names of the stages."""
    titles: list[str] = []

    def go(*_: object, wanted: Callable[[Any], Any]) -> int:
        shop = Workshop(typed.site)
        for stage in wanted(typed.site):
            titles.append(stage.title)
            if stage.title == end:
                return status
            if stage.title == "certificates":
                for declared in typed.site.hosts:
                    here = SimpleNamespace(workshop=shop, declared=declared)
                    (step,) = stage.steps
                    step[1](here, "name")
        return status

    monkeypatch.setattr(running, "go", go)
    monkeypatch.setattr(noting, "renewed", lambda *, name, renew: renew())  # noqa: ARG005 - as pyinfra calls it
    return titles


@pytest.mark.parametrize(
    ("ends", "status", "replaced"),
    [("preflight", 1, False), ("lease", 1, True), ("", 0, True)],
    ids=["nothing fits", "it broke off later", "all went well"],
)
def test_certificates_are_replaced_once_a_host_is_known_to_fit(
    ends: str, status: int, replaced: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What cannot be made or checked leaves the fleet's certificates alone; then each is replaced once, for all."""
    typed = options(tmp_path, new_authority=False)
    typed.what = "certificates"
    before = certificates(typed)
    titles = running_until(monkeypatch, typed, ends, status)
    with nullcontext() if replaced else pytest.raises(DeployError, match=r"^no certificate was replaced; put right"):
        assert rotating._rotate(typed) == status
    after = certificates(typed)
    assert [name for name in before if before[name] != after[name]] == (list(before) if replaced else [])
    if replaced:
        assert titles[:3] == ["preflight", "certificates", "lease"]
        assert (typed.told["certificates"], typed.told["in_force"]) == (list(before), status == 0)


def export(typed: argparse.Namespace) -> FleetAuthority:
    """Issue the client endpoint's certificate of an export."""
    authority = FleetAuthority.open(typed.site.secrets, typed.site.name)
    authority.certificate(CLIENT_ROLE, EXPORTED, ["chat.example"])
    return authority


@pytest.mark.parametrize("exported", [True, False])
def test_a_rotation_says_that_exports_are_to_be_made_again(
    exported: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where there is an export, which has the old ones, and nowhere else; hosts get theirs as ever."""
    typed = options(tmp_path, new_authority=False)
    typed.what = "certificates"
    certificates(typed)
    remembered.remember(typed.site, typed.site.hosts[1], activated=True)
    if exported:
        export(typed)
    assert running_until(monkeypatch, typed, "", 0) == []
    assert rotating._rotate(typed) == 0
    assert ("client _exported" in typed.told["certificates"]) is exported
    assert [advice.startswith("what was exported has the old ones") for advice in typed.advice] == [True] * exported


@pytest.mark.parametrize("set_up", [False, True])
def test_a_fleet_that_was_only_exported_needs_no_host_for_it(
    set_up: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where no host was ever deployed, none is reached: its certificates are replaced for the next export."""
    typed = options(tmp_path, new_authority=False)
    typed.what = "certificates"
    before, _ = certificates(typed), export(typed)
    if set_up:
        remembered.remember(typed.site, typed.site.hosts[1], activated=False)
    reached: list[object] = []
    monkeypatch.setattr(running, "go", lambda *given, **_: reached.append(given))
    assert rotating._rotate(typed) == 0
    after = certificates(typed)
    assert (reached, [name for name in before if before[name] == after[name]]) == ([], [])
    assert (typed.told["certificates"], typed.told["in_force"]) == ([*before, "client _exported"], False)
    assert typed.advice[0].endswith(f"; hosts that were deployed after all get theirs by {advised.command('apply')}")


@pytest.mark.parametrize("runs", [True, False])
def test_nothing_is_replaced_while_a_run_is_only_prepared(runs: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is called before the first one runs, and the certificates are as they were until then."""
    done: list[str] = []
    host = SimpleNamespace(state=SimpleNamespace(is_executing=runs), noop=lambda _: None)
    monkeypatch.setattr(noting, "host", host)
    assert list(noting.renewed._inner(renew=lambda: done.append("renewed"))) == []
    assert done == ["renewed"] * runs


def test_plans_after_a_rotation_have_the_new_certificates(tmp_path: Path) -> None:
    """A plan that was made to see whether it fits does not bring the old ones; a second host asks for no third ones."""
    typed = options(tmp_path)
    shop = Workshop(typed.site)
    before, fit = shop._common().certificates, shop._once(("plan", "gpu1"), object)
    assert shop.renew_certificates() == shop.renew_certificates()
    after = shop._common().certificates
    assert [key for key in before if before[key].pem == after[key].pem] == []
    assert certificates(typed) == {" ".join(key): each.pem for key, each in after.items()}
    assert shop._once(("plan", "gpu1"), object) is not fit


@pytest.mark.parametrize(("shell", "promised"), [("", True), ("apt-get upgrade -y", False)])
def test_who_interrupts_a_command_on_a_host_is_not_told_to_type_it_again(
    shell: str, promised: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same command would run it once more; without one the same command finishes the job."""
    monkeypatch.setattr(interrupt, "means", interrupt.SENTENCE)

    def cut_off(*_: object, **__: object) -> int:
        raise SystemExit(1)

    monkeypatch.setattr(running, "go", cut_off)
    typed = options(tmp_path, host="gpu1", shell=shell, reboot=False, yes=False, seconds=1.0, limit=[])
    with pytest.raises(SystemExit):
        maintaining._maintain(typed)
    assert ("the same command finishes the job" in interrupt.means) is promised
