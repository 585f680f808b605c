"""Sources as the inventory writes them: bounded work, and sentences without secrets."""

import time

import pytest

from rbee_runtime.errors import ModelStoreError, ReferenceFormError
from rbee_runtime.models.references import parse_source, shown
from rbee_runtime.models.sources.fetcher import _shown, _split
from rbee_runtime.models.sources.selection import select


@pytest.mark.parametrize(
    "text",
    [
        "oci://a.example/" + "a" * 2000 + "!",
        "oci://a.example/" + "a-" * 1000 + "!",
        "https://" + "a." * 1000 + "!",
        "https://a.example" + "/" * 1900 + "\n",
        "https://a.example/" + "a?" * 900 + "\n",
        "s3://bucket/" + "a/" * 900 + "\n",
        "hf:" + "a" * 1500 + "/!",
    ],
)
def test_a_hostile_source_is_refused_at_once(text: str) -> None:
    """No form of a source makes the grammar try exponentially many ways to read it."""
    started = time.process_time()
    with pytest.raises(ReferenceFormError, match="is not allowed"):
        parse_source(text)
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    "text",
    [
        "https://user:hunter2@host.example/m.gguf",
        "https://host.example:99999999/m.gguf?X-Signature=hunter2\n",
        "http//user:hunter2@host.example/m.gguf?sig=hunter2",
        "s3://key:hunter2@bucket/m.gguf",
    ],
)
def test_a_refused_source_shows_no_secret(text: str) -> None:
    """User, password and signature of a source stay out of the sentence that refuses it."""
    with pytest.raises(ReferenceFormError) as caught:
        parse_source(text)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in shown(text)


@pytest.mark.parametrize("url", ["https://u:hunter2@h/x", "https://h:99999/x?s=hunter2", "https://u:hunter2@h:x/"])
def test_a_refused_url_shows_no_secret(url: str) -> None:
    """The same holds for URLs that a server redirects to."""
    with pytest.raises(ModelStoreError) as caught:
        _split(url)
    assert "hunter2" not in str(caught.value) + _shown(url)


def test_a_listing_of_very_many_parts_is_looked_at_in_linear_time() -> None:
    """Ten thousand parts take a moment, and a listing that no repository has is refused."""
    parts = [f"m-{number:05d}-of-10000.safetensors" for number in range(1, 10_001)]
    started = time.process_time()
    assert len(select(parts, where="there")) == len(parts)
    assert time.process_time() - started < 5
    with pytest.raises(ModelStoreError, match="are not looked through"):
        select(["a"] * 100_001, where="there")
