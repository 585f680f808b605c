"""The guard's settings: every field once, and one sentence per mistake."""

import dataclasses
import json
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rbee_runtime import subordinate
from rbee_runtime.errors import ConfigError
from rbee_runtime.guard import accounts, config
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.config import EngineKind, GuardConfig

EXAMPLE: dict[str, Any] = {
    "engine": "podman",
    "engine_socket": "/run/podman/podman.sock",
    "listen": None,
    "fleet": "home",
    "hive": "gpu1",
    "images": ["localhost/rbee-worker:0.1.0"],
    "models": ["/var/lib/rbee/models", "/opt/rbee/engines", "/home/me/.cache/huggingface"],
    "handover": "/var/lib/rbee/hive/containers",
    "handed": "/run/rbee-guard/handed",
    "network": "rbee-workers",
    "ports": [9000, 9099],
    "user": "rbee-worker",
    "groups": ["rbee-models", "render", "video"],
    "memory_limit": 68719476736,
    "pids_limit": 4096,
    "callers": ["10.0.0.0/8", "203.0.113.5/32"],
    "rules": "/run/rbee-network/in-force",
    "engine_user": None,
}


def test_every_setting_is_read(tmp_path: Path) -> None:
    """The example has all settings there are, and each arrives."""
    path = tmp_path / "guard.json"
    path.write_text(json.dumps(EXAMPLE))
    found = config.load(path)
    assert set(EXAMPLE) == {each.name for each in dataclasses.fields(GuardConfig)}
    assert (found.engine, found.ports, found.handover) == (EngineKind.PODMAN, (9000, 9099), Path(EXAMPLE["handover"]))
    assert (found.models[2], found.callers[1]) == (Path("/home/me/.cache/huggingface"), "203.0.113.5/32")
    assert (found.memory_limit, found.rules, found.listen) == (68719476736, Path("/run/rbee-network/in-force"), None)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"engine": "containerd"}, "engine is 'containerd': use podman or docker"),
        ({"engine": {}}, "engine is {}: use podman or docker"),
        ({"engine_socket": "unix:///run/x"}, "engine_socket is 'unix:///run/x': use an absolute path"),
        ({"handed": "/run/../x"}, "handed is '/run/../x': use an absolute path"),
        ({"handed": "/run/x/"}, "handed is '/run/x/': use an absolute path"),
        ({"models": ["//srv"]}, "use an absolute path"),
        ({"models": ["/"]}, "use an absolute path"),
        ({"models": ["/srv\n"]}, "use an absolute path of printable characters"),
        ({"models": "/srv"}, "models is '/srv': use a list"),
        ({"fleet": "a/b"}, "fleet is 'a/b': use 1 to 63 letters"),
        ({"hive": ""}, "hive is '': use 1 to 63 letters"),
        ({"images": ["a b"]}, "images is ['a b']: use an image reference"),
        ({"ports": [9000]}, "ports is [9000]: use [first, last]"),
        ({"ports": [9099, 9000]}, "use [first, last] within 1024 to 65535"),
        ({"ports": [22, 9000]}, "use [first, last] within 1024 to 65535"),
        ({"ports": [True, 9000]}, "use [first, last]"),
        ({"user": "Root Me"}, "user is 'Root Me': use the name of an account"),
        ({"callers": ["10.0.0.1/8"]}, "use networks such as 10.0.0.0/8: 10.0.0.1/8 has host bits set"),
        ({"callers": ["::/0"]}, "use networks such as"),
        ({"memory_limit": 0}, "memory_limit is 0: use a whole number above 0, or null"),
        ({"pids_limit": "many"}, "pids_limit is 'many': use a whole number above 0, or null"),
        ({"image": []}, "'image' is no setting; did you mean images?"),
        ({"zzz": 1}, "'zzz' is no setting"),
        ({"models": ["/run"]}, "models has /run, which holds engine_socket: name a folder with models alone"),
        ({"models": ["/var/lib/rbee"]}, "models has /var/lib/rbee, which holds handover"),
        ({"user": ...}, "user is missing: set it"),
    ],
)
def test_a_mistake_is_one_sentence(changed: dict[str, Any], said: str) -> None:
    """The setting, what it is and what it should be are named."""
    given = {name: value for name, value in (EXAMPLE | changed).items() if value is not ...}
    with pytest.raises(ValueError) as refusal:  # noqa: PT011 - the sentence is compared below
        config.parse(json.dumps(given).encode())
    assert said in str(refusal.value)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"{", "the file is no JSON"),
        (b"[]", "the file is no object"),
        (b'{"user": "a", "user": "b"}', "'user' twice"),
        (b'{"ports": 1.5}', "only whole numbers"),
    ],
)
def test_a_file_that_is_no_settings_is_one_sentence(tmp_path: Path, data: bytes, said: str) -> None:
    """The path is named too."""
    path = tmp_path / "guard.json"
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{path}: .*{said}"):
        config.load(path)


def test_a_file_that_is_away_is_told(tmp_path: Path) -> None:
    """It says which file."""
    with pytest.raises(ConfigError, match=r"cannot read .*/guard\.json: No such file"):
        config.load(tmp_path / "guard.json")


SETTINGS = config.parse(json.dumps(EXAMPLE).encode())


def test_a_worker_has_the_account_of_the_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids are those of this host, and groups that it does not have are left out."""
    groups = [SimpleNamespace(gr_name=name, gr_gid=gid) for name, gid in (("video", 44), ("rbee-models", 9), ("x", 1))]
    monkeypatch.setattr("pwd.getpwnam", lambda _: SimpleNamespace(pw_uid=991, pw_gid=992))
    monkeypatch.setattr("grp.getgrall", lambda: groups)
    assert accounts.account(SETTINGS) == Account(991, 992, (9, 44))
    assert Account(991, 992).user == "991:992"


def test_without_root_a_worker_has_another_name_for_its_account(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The engine is told what an id is called inside, by what its user was lent; groups that it was not are away."""
    groups = [SimpleNamespace(gr_name=name, gr_gid=gid) for name, gid in (("video", 44), ("rbee-models", 9), ("x", 1))]
    monkeypatch.setattr("pwd.getpwnam", lambda _: SimpleNamespace(pw_uid=991, pw_gid=992))
    monkeypatch.setattr("grp.getgrall", lambda: groups)
    for name, text in (
        ("SUBUID", "e:991:1\ne:990:1\ne:100000:65536\n"),
        ("SUBGID", "x:44:1\ne:9:1\ne:992:1\ne:100000:65536\n"),
    ):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(subordinate, name, str(tmp_path / name))
    found = accounts.account(dataclasses.replace(SETTINGS, engine_user="e"))
    assert (found.uid, found.gid, found.groups) == (991, 992, (9, 44))
    assert (found.user, found.group_names) == ("2:2", ["1"])
    (tmp_path / "SUBUID").write_text("e:100000:65536\n")
    with pytest.raises(ConfigError, match=r"lend no rbee-worker to e: run `systemctl restart rbee-podman\.service`"):
        accounts.account(dataclasses.replace(SETTINGS, engine_user="e"))


@pytest.mark.parametrize(
    ("user", "groups", "said"),
    [
        ("nobody-of-this-host", (), "user nobody-of-this-host does not exist"),
        (pwd.getpwuid(0).pw_name, (), "is root's"),
        ("nobody", ("root",), "is root's"),
    ],
)
def test_a_worker_is_never_root(user: str, groups: tuple[str, ...], said: str) -> None:
    """An account that is away, root itself and root's group are refused."""
    with pytest.raises(ConfigError, match=said):
        accounts.account(dataclasses.replace(SETTINGS, user=user, groups=groups))
