"""A generation as it travels: the same on both sides, another when anything in it is another."""

import base64
import dataclasses
import json
from typing import Any

import pytest

from rbee_deploy.activator.manifest import Generation
from rbee_deploy.generation import generation, payload
from rbee_deploy.render import owned_files
from rbee_deploy.site import Site
from tests.unit.deploy.sites import IMAGE, ROLE_IMAGES, one_box, state_of, two_hosts


def made(site: Site, name: str) -> Generation:
    """Return the generation of a host of a fleet."""
    host = next(item for item in site.hosts if item.name == name)
    return generation(host, "0.1.0-aaaa", owned_files(site, host, state_of(site)))


HOSTS = [(site, item.name) for site in (one_box(), two_hosts()) for item in site.hosts]


@pytest.mark.parametrize(("site", "name"), HOSTS)
def test_it_arrives_as_it_was_sent(site: Site, name: str) -> None:
    """The host reads the same generation, with the same id, and every file's content."""
    host = next(item for item in site.hosts if item.name == name)
    files = owned_files(site, host, state_of(site))
    sent = json.loads(payload(made(site, name), files))
    arrived = Generation.parse(json.dumps(sent["generation"]))
    assert (arrived, arrived.id) == (made(site, name), made(site, name).id)
    assert {path: base64.b64decode(text).decode() for path, text in sent["contents"].items()} == {
        file.path: file.text() for file in files
    }


def test_images_have_their_kinds() -> None:
    """Each id stands where its kind does, whatever order a host's images come in."""
    site, images = one_box(), (IMAGE, *reversed(ROLE_IMAGES))
    found = generation(site.hosts[0], "0.1.0-aaaa", owned_files(site, site.hosts[0], state_of(site)), images)
    assert found.images == tuple(sorted(image.id for image in images))
    assert dict(zip(found.images, found.kinds, strict=True)) == {image.id: image.name.value for image in images}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Generation)])
def test_any_difference_gives_another_id(field: str) -> None:
    """No field is left out of the id."""
    site = one_box()
    site = dataclasses.replace(site, hosts=(dataclasses.replace(site.hosts[0], worker_runtime="container"),))
    first = dataclasses.replace(made(site, "box1"), images=(f"sha256:{'a' * 64}",), kinds=("hive",))
    value = getattr(first, field)
    changed: Any = f"{value}x" if isinstance(value, str) else value[:-1]
    other = dataclasses.replace(first, **{field: changed})
    assert other.id != first.id


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"release": "r"}', "null"])
def test_what_is_no_generation_is_refused(text: str) -> None:
    """A damaged or foreign file is a ValueError, which the activator says in a sentence."""
    with pytest.raises(ValueError, match=r"generation|Expecting"):
        Generation.parse(text)


def test_a_manifest_shows_no_secret() -> None:
    """What is kept of a generation names secrets by their hash alone."""
    text = made(one_box(), "box1").text()
    assert "PRIVATE KEY" not in text
    assert "BEGIN" not in text


def test_a_generation_of_before_keeps_its_id() -> None:
    """What a host knows by an id that was made before there were helpers is still known by it when it is read again."""
    stored = made(one_box(), "box1")
    assert "helpers" not in stored.text()
    assert Generation.parse(stored.text()).id == stored.id
