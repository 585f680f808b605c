"""The `config.json` beside safetensors weights, whose field names differ between families of models."""

from pathlib import Path
from typing import Any

import msgspec

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.bounded_json import parse_object, read_bytes
from rbee_runtime.models.chat_template import check_templates
from rbee_runtime.models.facts import MAX_LAYERS, MAX_WIDTH
from rbee_runtime.protocol import decode

MAX_CONFIG = 1 << 20
MAX_TOKENIZER_CONFIG = 8 << 20
MAX_TEMPLATE_FILE = 1 << 20
"""Bytes; published ones have at most 0.2, 2 and 0.1 MiB."""

TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where models of several media keep what their language model is."""


class HfConfig:
    """Typed and bounded access; raises ModelFormatError for a value that cannot be meant."""

    def __init__(self, fields: dict[str, Any], name: str) -> None:
        self._outer = fields
        self._fields = _text_part(fields)
        self._name = name
        self.architecture = self._architecture()
        self.model_type = str(self._fields.get("model_type") or fields.get("model_type") or "")
        self.layers = self.whole("num_hidden_layers", "n_layer", "num_layers", "n_layers")
        if not 0 < self.layers <= MAX_LAYERS:
            raise self.bad(f"says {self.layers} layers, 1 to {MAX_LAYERS} are served")

    def bad(self, what: str) -> ModelFormatError:
        """Return the error that says what is wrong with this file."""
        return ModelFormatError(f"{self._name} {what}")

    def has(self, *names: str) -> bool:
        """Say whether one of the fields has a value."""
        return self._first(names) is not None

    def whole(self, *names: str, default: int = 0) -> int:
        """Return the first of the fields that is there, as a count."""
        value = self._first(names)
        return self._count(names[0], value) if value is not None else default

    def per_layer(self, *names: str, default: int) -> tuple[int, ...]:
        """Return one count per layer, where the file gives one for all or a list."""
        value = self._first(names)
        if not isinstance(value, list):
            return (self.whole(*names, default=default),) * self.layers
        if len(value) != self.layers:
            raise self.bad(f"is damaged: {names[0]} has {len(value)} values for {self.layers} layers")
        return tuple(self._count(names[0], item) for item in value)

    def counts(self, name: str) -> tuple[int, ...]:
        """Return a list of counts."""
        value = self._fields.get(name)
        return tuple(self._count(name, item) for item in value) if isinstance(value, list) else ()

    def kinds(self) -> tuple[str, ...]:
        """Return what each layer is by the file's own words; () where it does not say."""
        value = self._first(("layer_types", "layers_block_type", "hybrid_override_pattern"))
        if value is None:
            return ()
        kinds = tuple(str(item) for item in value) if isinstance(value, list | str) else ()
        # Layers behind the last one predict further tokens, which is off by default.
        if len(kinds) < self.layers:
            raise self.bad(f"is damaged: it tells the kind of {len(kinds)} of {self.layers} layers")
        return kinds[: self.layers]

    def truth(self, name: str, *, default: bool) -> bool:
        """Return a field that is true or false."""
        value = self._fields.get(name)
        return value if isinstance(value, bool) else default

    def text(self, *names: str) -> str:
        """Return the first of the fields that is there if it is text."""
        value = self._first(names)
        return value if isinstance(value, str) else ""

    def quantisation(self) -> dict[str, Any]:
        """Return how the weights are quantised, as the file says it."""
        for fields in (self._fields, self._outer):
            value = fields.get("quantization_config")
            if isinstance(value, dict):
                return value
        return {}

    def _architecture(self) -> str:
        names = self._outer.get("architectures") or self._fields.get("architectures")
        first = names[0] if isinstance(names, list) and names else self._outer.get("model_type")
        if not isinstance(first, str) or not first.isidentifier() or len(first) > 128:
            raise self.bad("does not say what architecture the model has (architectures); it cannot be loaded")
        return first

    def _first(self, names: tuple[str, ...]) -> Any:
        return next((self._fields[name] for name in names if self._fields.get(name) is not None), None)

    def _count(self, field: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_WIDTH:
            raise self.bad(f"is damaged: {field} is {str(value)[:40]!r}, no count between 0 and {MAX_WIDTH}")
        return value


def read_config(path: Path, name: str) -> HfConfig:
    """Return the model's configuration or raise ModelFormatError."""
    return HfConfig(parse_object(read_bytes(path, name, MAX_CONFIG), name), name)


def _text_part(fields: dict[str, Any]) -> dict[str, Any]:
    part = next((fields[key] for key in TEXT_PARTS if isinstance(fields.get(key), dict)), None)
    # One more level: a model that speaks keeps its thinking part's text model inside it.
    return _text_part(part) if part is not None else fields


class _Named(msgspec.Struct):
    template: str
    name: str = ""


class _TokenizerConfig(msgspec.Struct):
    chat_template: str | list[_Named] | None = None


def template_of_tokenizer(path: Path, name: str) -> str | None:
    """Return the (default) chat template of a `tokenizer_config.json`, checked."""
    content = read_bytes(path, name, MAX_TOKENIZER_CONFIG)
    try:
        found = decode(content, _TokenizerConfig).chat_template
    except msgspec.MsgspecError as error:
        raise ModelFormatError(f"{name} is damaged: {error}") from error
    named = [("default", found)] if isinstance(found, str) else [(each.name, each.template) for each in found or ()]
    check_templates([source for _, source in named], name)
    return dict(named).get("default")


def template_file(path: Path, name: str) -> str:
    """Return the chat template that is a file of its own, checked."""
    source = read_bytes(path, name, MAX_TEMPLATE_FILE).decode("utf-8", "replace")
    check_templates([source], name)
    return source
