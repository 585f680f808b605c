"""Chat templates: a stranger's program in a sandbox."""

import pytest

from rbee_runtime.errors import EngineLoadError, RequestError
from rbee_runtime.worker.engines.llamacpp.template import CHATML, compile_template

TURNS = ({"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi {{ 7 * 7 }}"})


def render(source: str) -> str:
    return compile_template(source, bos="<s>", eos="</s>")(TURNS, None)


def test_the_fallback_is_chatml() -> None:
    """A model without a template gets turns in ChatML, and what a user typed stays text."""
    assert render(CHATML) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi {{ 7 * 7 }}<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("source", "text"),
    [
        ("{{ bos_token }}{{ messages[0]['role'] }}{{ eos_token }}", "<s>system</s>"),
        ("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% endfor %}", "user"),
        ("{{ {'a': 'ü'} | tojson }}", '{"a": "ü"}'),
        ("{% if tools %}no{% else %}yes{% endif %}", "yes"),
        ("{{ strftime_now('%Y')|length }}", "4"),
    ],
)
def test_what_published_templates_use_is_there(source: str, text: str) -> None:
    """Globals, filters and loop controls that model authors rely on work."""
    assert render(source) == text


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{% for i in range(10000000) %}x{% endfor %}",
        "{{ raise_exception('roles must alternate') }}",
        "{{ 1 / 0 }}",
    ],
)
def test_a_template_that_misbehaves_refuses_the_request(source: str) -> None:
    """Escapes, huge ranges, refusals and mistakes are a 400 with a reason, never a crash."""
    with pytest.raises(RequestError, match=r"chat template refused the messages: .+") as refusal:
        render(source)
    assert refusal.value.status == 400


@pytest.mark.parametrize("source", ["{% for %}", "{{ ", "x" * (1 << 20) + "x", "{% if a %}" * 3000])
def test_a_damaged_template_fails_the_load(source: str) -> None:
    """A template that cannot be compiled is found when the model loads."""
    with pytest.raises(EngineLoadError, match="chat template"):
        compile_template(source, bos="", eos="")
