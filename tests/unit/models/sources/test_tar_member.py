import gzip
import zlib
from collections.abc import AsyncGenerator
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources import inflate
from rbee_runtime.models.sources.inflate import inflated
from rbee_runtime.models.sources.tar_member import Member, TarWalk
from tests.unit.models.sources.oci_registry import tar

WEIGHTS = bytes(range(256)) * 9
ARCHIVE = tar({"etc/hosts": b"x" * 700, "models/bee.gguf": WEIGHTS, "usr/share/doc": b"y"})


def _walked(blocks: list[bytes]) -> tuple[TarWalk, bytes]:
    walk = TarWalk("oci://x/y")
    return walk, b"".join(part for block in blocks for part in walk.feed(block))


@settings(deadline=None, max_examples=60)
@given(cut=st.integers(1, 1500))
def test_blocks_of_any_size_give_the_same_file(cut: int) -> None:
    """Where the network cuts a stream makes no difference."""
    walk, found = _walked([ARCHIVE[at : at + cut] for at in range(0, len(ARCHIVE), cut)])
    assert (walk.found, walk.whole, walk.ended, found) == (Member("bee.gguf", len(WEIGHTS)), True, True, WEIGHTS)


@settings(deadline=None, max_examples=300)
@given(st.binary(max_size=64), st.integers(0, len(ARCHIVE) - 1))
def test_damage_never_crashes_the_walk(noise: bytes, at: int) -> None:
    """A damaged archive gives bytes of the announced size at most, or one sentence."""
    with suppress(ModelStoreError):
        walk, found = _walked([ARCHIVE[:at] + noise + ARCHIVE[at + len(noise) :]])
        assert walk.found is None or len(found) <= walk.found.size


async def _stream(blocks: list[bytes]) -> AsyncGenerator[bytes, None]:
    for block in blocks:
        yield block


async def test_what_expands_comes_in_bounded_blocks() -> None:
    """A few bytes that stand for many never lie in memory at once."""
    packed = gzip.compress(bytes(20 * inflate.BLOCK))
    sizes = [len(block) async for block in inflated(_stream([packed]), "a layer")]
    assert sum(sizes) == 20 * inflate.BLOCK
    assert max(sizes) <= inflate.BLOCK


@pytest.mark.parametrize("damage", [b"\x00" * 8, b"noise"])
async def test_a_damaged_layer_is_one_sentence(damage: bytes) -> None:
    """What follows a damaged place is not guessed."""
    packed = gzip.compress(ARCHIVE)
    with pytest.raises(ModelStoreError, match="a layer is damaged"):
        async for _ in inflated(_stream([packed[:20] + damage + packed[20 + len(damage) :]]), "a layer"):
            pass


async def test_what_is_not_compressed_passes_as_it_is() -> None:
    """Whether a layer is compressed is told by its bytes, not by its name."""
    raw = zlib.compress(ARCHIVE)
    assert b"".join([block async for block in inflated(_stream([raw[:5], raw[5:]]), "a layer")]) == raw


@pytest.mark.parametrize("cut", [1, 2, 3])
@pytest.mark.parametrize("content", [gzip.compress(ARCHIVE), ARCHIVE, b"", b"x"], ids=["gzip", "plain", "empty", "one"])
async def test_a_short_first_block_hides_nothing(content: bytes, cut: int) -> None:
    """What a layer is shows in its first bytes, however the network cuts them, and none of them is lost."""
    blocks = [b"", content[:cut], b"", content[cut:]]
    whole = ARCHIVE if content.startswith(b"\x1f\x8b") else content
    assert b"".join([block async for block in inflated(_stream(blocks), "a layer")]) == whole


async def test_a_bomb_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """What expands a hundredfold beyond what a layer may is not read to its end."""
    monkeypatch.setattr(inflate, "FREE_BYTES", 2 * inflate.BLOCK)
    with pytest.raises(ModelStoreError, match="times its size"):
        async for _ in inflated(_stream([gzip.compress(bytes(20 * inflate.BLOCK))]), "a layer"):
            pass
