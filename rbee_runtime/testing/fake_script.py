"""What a fake engine plays: options of a `fake:` source and of a worker spec, read without an engine."""

import difflib
import re
from collections.abc import Mapping
from itertools import cycle, islice
from typing import Annotated

import msgspec

from rbee_runtime.errors import ConfigError
from rbee_runtime.worker.engines.mistakes import first_mistake

_FAIL = "^(crash_at_start|bad_model|oom|hang|garbage|(crash|hang)_after_[0-9]{1,6})?$"

_BEGUN = re.compile(r"tok([0-9]{1,6}) $")


class FakeScript(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a fake engine plays.

    `slots` answers at a time (0: as the spec says), `tokens_per_s` per answer (0: at once), `tokens` of an answer for
    which the client sets no limit, `load_s` seconds to load, `text` the words of an answer instead of tok0 tok1 ….
    """

    slots: Annotated[int, msgspec.Meta(ge=0, le=1024)] = 0
    tokens_per_s: Annotated[float, msgspec.Meta(ge=0)] = 50.0
    tokens: Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] = 0
    load_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    text: str = ""
    fail: Annotated[str, msgspec.Meta(pattern=_FAIL)] = ""

    def words(self, limit: int | None, begun: int = 0) -> list[str]:
        """Return the tokens of an answer behind `begun` others: `limit`, or what is left of `tokens`, text or 16."""
        script = re.findall(r"\S+\s*", self.text)
        count = begun + limit if limit else self.tokens or len(script) or 16
        words = islice(cycle(script), count) if script else (f"tok{index} " for index in range(count))
        return list(words)[begun:]

    def begun(self, prompt: str) -> int:
        """Return how many of its own tokens a prompt ends with; of a text it does not know that."""
        found = _BEGUN.search(prompt)
        return int(found[1]) + 1 if found is not None and not self.text else 0

    def tokens_before(self, accident: str) -> int | None:
        """Return N of `crash_after_N` or `hang_after_N`, or None if that accident is not in the script."""
        kind, separator, count = self.fail.partition("_after_")
        return int(count) if separator and kind == accident else None


def parse_options(rest: str) -> dict[str, str]:
    """Return what follows `fake:` as options of a worker spec, or raise ConfigError."""
    pairs = [part.partition("=") for part in rest.split(",") if part.strip()]
    options = {key.strip(): value.strip() for key, _, value in pairs}
    read_script(options)
    return options


def read_script(options: Mapping[str, str | int | float | bool]) -> FakeScript:
    """Return validated options, texts of numbers included, or raise ConfigError naming the nearest known key."""
    unknown = [key for key in options if key not in FakeScript.__struct_fields__]
    if unknown:
        near = difflib.get_close_matches(unknown[0], FakeScript.__struct_fields__, n=1)
        hint = f"; did you mean {near[0]!r}" if near else f"; known: {', '.join(FakeScript.__struct_fields__)}"
        raise ConfigError(f"unknown option {unknown[0]!r} of a fake engine{hint}")
    wrong = first_mistake(FakeScript, options)
    if wrong:
        raise ConfigError(f"a fake engine's option is wrong: {wrong}")
    return msgspec.convert(options, FakeScript, strict=False)
