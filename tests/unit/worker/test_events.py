"""Events that are written once and filled with each text."""

import pytest

from rbee_runtime.worker.engines import Delta
from rbee_runtime.worker.surface.completions import TextAnswer
from rbee_runtime.worker.surface.events import Template, event
from rbee_runtime.worker.surface.openai import ChatAnswer
from tests.unit.worker.serving import event_of

TEXTS = ["a", '"', "\\", "\n\n", "data: {}", "\x00", "\u2028", "caf\u00e9", "\U0001f41d", "</script>", "{}", " " * 9]


@pytest.mark.parametrize("text", TEXTS)
def test_a_filled_event_is_the_one_written_anew(text: str) -> None:
    """Byte for byte, whatever the text has in it."""
    template = Template(lambda each: event({"before": '"', "text": each, "after": [None]}))
    assert template.filled(text) == event({"before": '"', "text": text, "after": [None]})


@pytest.mark.parametrize("shape", [ChatAnswer('a "model"'), TextAnswer('a "model"')])
def test_each_choice_has_a_template_of_its_own(shape: ChatAnswer | TextAnswer) -> None:
    """Two choices whose pieces come in turns keep their numbers."""
    given = [Delta(text, choice=choice) for text, choice in (("a", 0), ("b", 1), ("c", 0))]
    pieces = [event_of(shape.piece(delta))["choices"][0] for delta in given]
    assert [(each["index"], each.get("text") or each["delta"]["content"]) for each in pieces] == [
        (0, "a"),
        (1, "b"),
        (0, "c"),
    ]
