"""Typed and bounded access to the metadata of a GGUF model, whose keys begin with the name of its architecture."""

import re
from collections.abc import Mapping

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.facts import MAX_LAYERS, MAX_WIDTH
from rbee_runtime.models.gguf import GgufFile
from rbee_runtime.models.gguf_values import Array, Value

_ARCHITECTURE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


class Keys:
    """The metadata of one file; raises ModelFormatError for a value that cannot be meant."""

    def __init__(self, file: GgufFile) -> None:
        self._name = file.name
        self._metadata: Mapping[str, Value] = file.metadata
        self.architecture = self._architecture()
        self.layers = self.whole("block_count")
        if not 0 < self.layers <= MAX_LAYERS:
            raise self.bad(f"is damaged: it has {self.layers} layers, 1 to {MAX_LAYERS} are served")

    def bad(self, what: str) -> ModelFormatError:
        """Return the error that says what is wrong with this file."""
        return ModelFormatError(f"{self._name} {what}")

    def has(self, key: str) -> bool:
        """Say whether the architecture's key is there."""
        return self._full(key) in self._metadata

    def says_no(self, key: str) -> bool:
        """Say whether the architecture's key is there and false."""
        return self._metadata.get(self._full(key)) is False

    def whole(self, key: str, default: int | None = None) -> int:
        """Return the whole number of the architecture's `key`; without a default it must be there."""
        value = self._value(key, default)
        if isinstance(value, Array) and value.items:
            return max(self._counts(key, value.items))
        return self._counts(key, (value,))[0]

    def per_layer(self, key: str, default: int) -> tuple[int, ...]:
        """Return one number per layer, where the file gives one for all or an array."""
        value = self._value(key, default)
        if not isinstance(value, Array):
            return self._counts(key, (value,)) * self.layers
        if value.items is None or len(value.items) != self.layers:
            raise self.bad(f"is damaged: {self._full(key)} has {value.count} values for {self.layers} layers")
        return self._counts(key, value.items)

    def is_array(self, key: str) -> bool:
        """Say whether the value is one per layer."""
        return isinstance(self._metadata.get(self._full(key)), Array)

    def length(self, key: str) -> int:
        """Return how many items the array under the whole key `key` has (0: not there)."""
        value = self._metadata.get(key)
        return value.count if isinstance(value, Array) else 0

    def general(self, key: str) -> Value | None:
        """Return the value under the whole key `key`."""
        return self._metadata.get(key)

    def _architecture(self) -> str:
        value = self._metadata.get("general.architecture")
        if not isinstance(value, str) or not _ARCHITECTURE.fullmatch(value):
            raise self.bad("does not say what architecture it has (general.architecture); it cannot be loaded")
        return value

    def _full(self, key: str) -> str:
        return f"{self.architecture}.{key}"

    def _value(self, key: str, default: int | None) -> Value:
        value = self._metadata.get(self._full(key), default)
        if value is None:
            raise self.bad(f"does not say {self._full(key)}; it cannot be loaded")
        return value

    def _counts(self, key: str, values: tuple[Value, ...]) -> tuple[int, ...]:
        counts = tuple(int(value) for value in values if isinstance(value, int) and 0 <= value <= MAX_WIDTH)
        if len(counts) < len(values):
            raise self.bad(f"is damaged: {self._full(key)} is no count between 0 and {MAX_WIDTH}")
        return counts
