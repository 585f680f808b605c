"""Small files of a repository are named by git: the SHA-1 of `blob <size>`, a zero byte and the content."""

import hashlib
from collections.abc import AsyncIterator

from rbee_runtime.errors import ModelStoreError


class GitBlob:
    """The name that git gives to content of `size` bytes; fed in blocks."""

    def __init__(self, size: int) -> None:
        # The name of an object, not a signature: the commit that lists it is what is trusted.
        self._sum = hashlib.sha1(f"blob {size}\0".encode(), usedforsecurity=False)

    def update(self, block: bytes) -> None:
        """Take in the next block."""
        self._sum.update(block)

    def hexdigest(self) -> str:
        """Return the 40 hex digits of what was taken in."""
        return self._sum.hexdigest()


async def checked(blocks: AsyncIterator[bytes], *, name: str, size: int, blob: str) -> AsyncIterator[bytes]:
    """Pass on the blocks of a whole file, and raise ModelStoreError at the end if they are not the blob's content."""
    found = GitBlob(size)
    async for block in blocks:
        found.update(block)
        yield block
    if found.hexdigest() != blob:
        raise ModelStoreError(f"{name} arrived damaged: git names its content {blob}, not {found.hexdigest()}")
