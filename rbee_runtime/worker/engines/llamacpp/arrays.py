"""What llama.cpp reads a step from."""

import ctypes
from collections.abc import Sequence
from itertools import accumulate
from types import ModuleType
from typing import Any

from rbee_runtime.worker.engines.llamacpp.batching import Entry


class Batch:
    """The arrays of one step in C's memory, written in slices: token by token Python would take longer than the GPU."""

    def __init__(self, library: ModuleType, size: int) -> None:
        self._struct = library.llama_batch()
        self._tokens = (library.llama_token * size)()
        self._positions = (library.llama_pos * size)()
        self._sequences = (library.llama_seq_id * size)()
        self._wanted = (ctypes.c_int8 * size)()
        self._ones = (ctypes.c_int32 * size)(*[1] * size)
        each = ctypes.POINTER(library.llama_seq_id)
        width = ctypes.sizeof(library.llama_seq_id)
        first = ctypes.addressof(self._sequences)
        self._pointers = (each * size)(*(ctypes.cast(first + width * index, each) for index in range(size)))
        self._struct.token, self._struct.pos = self._tokens, self._positions
        self._struct.seq_id, self._struct.n_seq_id = self._pointers, self._ones
        self._struct.logits = self._wanted

    def fill(self, entries: Sequence[Entry]) -> Any:
        """Return the batch of these entries."""
        at = 0
        for entry in entries:
            at = self._put(at, entry.tokens, entry.start, entry.slot.index, wanted=0)
            self._wanted[at - 1] = entry.sample
        self._struct.n_tokens = at
        return self._struct

    def fill_texts(self, texts: Sequence[Sequence[int]]) -> Any:
        """Return the batch of whole texts, of which every token counts."""
        at = 0
        for index, text in enumerate(texts):
            at = self._put(at, text, 0, index, wanted=1)
        self._struct.n_tokens = at
        return self._struct

    def _put(self, at: int, tokens: Sequence[int], start: int, sequence: int, *, wanted: int) -> int:
        end = at + len(tokens)
        self._tokens[at:end] = tokens
        self._positions[at:end] = list(range(start, start + len(tokens)))
        self._sequences[at:end] = [sequence] * len(tokens)
        self._wanted[at:end] = [wanted] * len(tokens)
        return end


def wanted(entries: Sequence[Entry]) -> list[tuple[Entry, int]]:
    """Return the entries whose logits are wanted, each with where in the batch its last token is."""
    ends = accumulate(len(entry.tokens) for entry in entries)
    return [(entry, end - 1) for entry, end in zip(entries, ends, strict=True) if entry.sample]
