"""What a model says of placement, from the inventory to the queen's fleet file."""

from typing import Any

import yaml

from rbee_deploy import configs
from rbee_deploy.inventory import host, model
from rbee_deploy.site import Site
from rbee_runtime.config import FleetFile, Preference

SAID: dict[str, Any] = {
    "idle_ttl": 60.0,
    "keep_loaded": False,
    "gpus": 2,
    "cpu": True,
    "placement": "pack",
    "apart_from": ("m", "other"),
    "continues": True,
}


def written(**fields: Any) -> dict[str, Any]:
    """Return the model as it stands in the fleet file."""
    declared = model("m", source="fake:", **fields)
    site = Site(name="rbee", hosts=(host("q", address="192.0.2.1", queen=True),), models=(declared,))
    found: dict[str, Any] = yaml.safe_load(configs.fleet_file(site, {}))["models"][0]
    return found


def test_what_a_model_says_reaches_the_queen() -> None:
    """Every field, as the queen reads it."""
    found = FleetFile.model_validate({"models": [written(**SAID, replicas=(0, 3))]}).models[0]
    assert {name: getattr(found, name) for name in SAID} == {**SAID, "placement": Preference.PACK}
    assert (found.replicas_min, found.replicas_max) == (0, 3)


def test_what_is_not_said_is_not_written() -> None:
    """A release from before reads the file of a fleet that uses nothing new."""
    assert not SAID.keys() & written().keys()
    assert written(idle_ttl=0)["idle_ttl"] == 0.0
