"""Further names of models: who may ask for them, and what the list says."""

from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_runtime.config import FleetFile
from rbee_runtime.errors import ConfigError, RequestError
from rbee_runtime.gateway.seam import Ask
from rbee_runtime.queen.admission import Refusal, admit
from rbee_runtime.queen.fleet import check
from rbee_runtime.queen.records import Scope
from tests.unit.queen.endpoint import endpoint
from tests.unit.queen.states import Fixture, fleet, model

Maker = Callable[[FleetFile], Fixture]

ALIAS = "gpt-4o-mini"


def aliased(**aliases: str) -> FleetFile:
    return fleet(model(), hives=("a",)).model_copy(update={"aliases": aliases or {ALIAS: "m"}})


@pytest.mark.parametrize(
    ("globs", "allowed"), [(["*"], True), (["m"], True), ([ALIAS], True), (["gpt-*"], True), (["other"], False)]
)
async def test_a_key_for_either_name_may_ask_by_the_alias(queen: Maker, globs: list[str], *, allowed: bool) -> None:
    """The operator thinks of keys by whichever name the clients know."""
    q = queen(aliased())
    q.beat("a")
    q.beat("a")
    key = q.keys.create("t", [Scope.INFER], globs)[0].id
    found = admit(Ask(key, q.controller.resolve(ALIAS), asked=ALIAS), q.controller, queue_wait=1.0)
    refused = isinstance(found, Refusal) and found.error.code == "model_not_allowed"
    assert refused is not allowed


async def test_the_alias_is_listed_with_its_models_state(queen: Maker) -> None:
    """A client that looks before it asks finds the name that it knows."""
    q = queen(aliased())
    q.beat("a")
    q.beat("a")
    headers = {"authorization": f"Bearer {q.keys.create('t', [Scope.INFER])[1]}"}
    async with endpoint(q) as c:
        listed = (await c.get("/v1/models", headers=headers)).json()["data"]
        assert [(row["id"], row["state"]) for row in listed] == [("m", "ready"), (ALIAS, "ready")]
        assert (await c.get(f"/v1/models/{ALIAS}", headers=headers)).json()["id"] == ALIAS


@pytest.mark.parametrize(
    ("aliases", "said"),
    [({"m": "m"}, "is the name of a model"), ({"x": "y"}, "no model of this fleet"), ({"a b": "m"}, "a b")],
)
def test_a_wrong_alias_is_one_sentence(aliases: dict[str, str], said: str, tmp_path: Path) -> None:
    """The file stays as it was."""
    with pytest.raises(ConfigError, match=said):
        check(aliased(**aliases), where=str(tmp_path / "fleet.yaml"))


def test_an_unknown_name_is_told_as_it_was_asked(queen: Maker) -> None:
    """Nobody hears of a name that they did not use."""
    q = queen(aliased())
    key = q.keys.create("t", [Scope.INFER], ["other"])[0].id
    found = admit(Ask(key, "m", asked=ALIAS), q.controller, queue_wait=1.0)
    assert isinstance(found, Refusal)
    assert isinstance(found.error, RequestError)
    assert ALIAS in str(found.error)
