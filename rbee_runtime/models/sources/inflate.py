"""Layers of images arrive plain, or compressed by gzip or zstd: blocks in, blocks out, each of bounded size."""

import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from importlib import import_module
from typing import Any, Protocol

from rbee_runtime.errors import ModelStoreError

BLOCK = 1024 * 1024
"""Bytes that come out at once at most, whatever a block expands to."""

MAX_RATIO = 100
FREE_BYTES = 1024**3
"""Weights hardly shrink and programs to a third; what expands more than this is made to keep us busy."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"


class _Expander(Protocol):
    def expand(self, block: bytes) -> Iterator[bytes]: ...


async def inflated(blocks: AsyncGenerator[bytes, None], where: str) -> AsyncGenerator[bytes, None]:
    """Yield the content of a layer, by what its first bytes say it is; ModelStoreError where it is damaged."""
    expander: _Expander | None = None
    came = given = 0
    async with aclosing(_with_mark(blocks)) as whole:
        async for block in whole:
            expander = expander or _expander(block, where)
            came += len(block)
            for content in expander.expand(block):
                given += len(content)
                if given > FREE_BYTES and given > MAX_RATIO * came:
                    raise ModelStoreError(f"{where} expands to more than {MAX_RATIO} times its size: not a model")
                yield content


async def _with_mark(blocks: AsyncGenerator[bytes, None]) -> AsyncGenerator[bytes, None]:
    """Pass the blocks on, the first with as many bytes as tell what they are: a network may cut them anywhere."""
    first: bytes | None = b""
    async with aclosing(blocks):
        async for block in blocks:
            if first is None:
                yield block
            elif len(first) + len(block) < len(_ZSTD):
                first += block
            else:
                yield first + block
                first = None
    if first:
        yield first


def _expander(first: bytes, where: str) -> _Expander:
    if first.startswith(_GZIP):
        return _Gzip(where)
    return _Zstd(where) if first.startswith(_ZSTD) else _Plain()


class _Plain:
    def expand(self, block: bytes) -> Iterator[bytes]:
        yield block


class _Gzip:
    """Also of several members in a row, as tools write that make layers seekable."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._member = zlib.decompressobj(wbits=31)

    def expand(self, block: bytes) -> Iterator[bytes]:
        while block:
            if self._member.eof:
                self._member = zlib.decompressobj(wbits=31)
            try:
                content = self._member.decompress(block, BLOCK)
            except zlib.error as error:
                raise ModelStoreError(f"{self._where} is damaged: {error}") from error
            block = self._member.unused_data if self._member.eof else self._member.unconsumed_tail
            if content:
                yield content


class _Zstd:
    """By the standard library of Python 3.14 and later."""

    def __init__(self, where: str) -> None:
        self._where = where
        try:
            self._module: Any = import_module("compression.zstd")
        except ImportError as error:
            raise ModelStoreError(
                f"{where} is compressed by zstd, which this Python cannot read; push it with gzip, or as an artefact"
            ) from error
        self._frame = self._module.ZstdDecompressor()

    def expand(self, block: bytes) -> Iterator[bytes]:
        while block:
            if self._frame.eof:
                self._frame = self._module.ZstdDecompressor()
            try:
                content = self._frame.decompress(block, BLOCK)
            except self._module.ZstdError as error:
                raise ModelStoreError(f"{self._where} is damaged: {error}") from error
            while content:
                yield content
                content = b"" if self._frame.eof or self._frame.needs_input else self._frame.decompress(b"", BLOCK)
            block = self._frame.unused_data if self._frame.eof else b""
