"""Damaged and random files: every one is read or refused, none crashes, hangs or takes much memory.

`RBEE_FUZZ_EXAMPLES` is the number of cases over all targets (`make fuzz-formats`: 50,000).
"""

import json
import os
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.estimate import memory
from rbee_runtime.models.formats import inspect
from tests.unit.models.gguf_builder import ARRAY, BOOL, LLAMA, STRING, UINT32, array, entry, gguf, tensor
from tests.unit.models.safetensors_builder import CONFIG, tensors

HYBRID = (
    *LLAMA,
    entry("llama.attention.sliding_window", UINT32, 8),
    entry("llama.attention.sliding_window_pattern", ARRAY, array(BOOL, [1, 0])),
    entry("llama.ssm.conv_kernel", UINT32, 4),
    entry("llama.ssm.inner_size", UINT32, 64),
    entry("llama.ssm.state_size", UINT32, 16),
    entry("llama.full_attention_interval", UINT32, 2),
    entry("general.alignment", UINT32, 64),
    entry("n", ARRAY, array(ARRAY, [array(UINT32, [1]), array(STRING, ["x"])])),
)
GOOD_GGUF = gguf(HYBRID, [tensor("a", (32, 2)), tensor("b", (256,), kind=12, offset=256)], data=512, alignment=64)
GOOD_SAFETENSORS = tensors(a=[2, 3], b=[], c=[0], d=[4])
GOOD_CONFIG = json.dumps(
    CONFIG
    | {
        "layer_types": ["linear_attention", "sliding_attention"],
        "sliding_window": 8,
        "quantization_config": {"bits": 4},
    }
    | {"mamba_d_state": 16, "num_local_experts": 8, "kv_lora_rank": 4, "text_config": {**CONFIG, "head_dim": 8}}
).encode()
GOOD_INDEX = json.dumps({"weight_map": dict.fromkeys("abcd", "model.safetensors")}).encode()
GOOD_TOKENIZER = json.dumps(
    {"chat_template": [{"name": "default", "template": "{{ (x) }}{% if y %}'{% endif %}"}]}
).encode()

INDEX = "model.safetensors.index.json"

EXAMPLES = int(os.environ.get("RBEE_FUZZ_EXAMPLES", "1000"))
TARGETS = 6
MAX_SECONDS, MAX_BYTES = 1.0, 100 << 20
BUSY = 5
"""Times the promise, because the processor's time that is measured holds tracemalloc's and the collector's too."""

NUMBERS = [0, 1, 2, 3, 4, 8, 9, 31, 32, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]
PIECES = [b"{", b"}", b'"', b"[", b"]", b",", b":", b"\\", b"0", b"null", b"\0", b'"a":{}', b"\xff"]
PLACE = st.integers(0, 1 << 16)
NUMBER = st.builds(
    lambda number, size: (number % (1 << 8 * size)).to_bytes(size, "little"),
    st.sampled_from(NUMBERS),
    st.sampled_from([1, 2, 4, 8]),
)
EDIT = st.one_of(
    st.tuples(st.just("set"), PLACE, st.binary(min_size=1, max_size=8) | NUMBER),
    st.tuples(st.just("put"), PLACE, st.sampled_from(PIECES)),
    st.tuples(st.sampled_from(["repeat", "drop"]), PLACE, st.binary(min_size=1, max_size=32)),
    st.tuples(st.just("cut"), PLACE, st.just(b"")),
)
EDITS = st.lists(EDIT, min_size=1, max_size=6)
BUDGET = settings(
    max_examples=-(-EXAMPLES // TARGETS),
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture],
)


def edited(content: bytes, edits: Sequence[tuple[str, int, bytes]]) -> bytes:
    for what, place, raw in edits:
        at = place % (len(content) + 1)
        head, tail = content[:at], content[at:]
        content = {
            "set": head + raw + tail[len(raw) :],
            "put": head + raw + tail,
            "repeat": head + tail[: len(raw)] * 2 + tail[len(raw) :],
            "drop": head + tail[len(raw) :],
            "cut": head,
        }[what]
    return content


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("fuzz")
    return {
        name: root / name for name in ("m.gguf", "model.safetensors", "config.json", "tokenizer_config.json", INDEX)
    }


SAFE = {
    "model.safetensors": GOOD_SAFETENSORS,
    "config.json": GOOD_CONFIG,
    "tokenizer_config.json": GOOD_TOKENIZER,
    INDEX: GOOD_INDEX,
}


def taken(model: dict[str, Path], files: dict[str, bytes]) -> bool:
    """Say whether the files pass as a model; fail for any other error, too much time or too much memory."""
    for name, content in files.items():
        model[name].write_bytes(content)
    sentence = ""
    tracemalloc.start()
    began = time.process_time()
    try:
        facts = inspect([(name, model[name]) for name in files])
        memory(facts, context=4096, slots=2, engine="vllm", devices=2).explain()
    except ModelFormatError as error:
        sentence = str(error)
    seconds, peak = time.process_time() - began, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert seconds < MAX_SECONDS * BUSY
    assert peak < MAX_BYTES
    assert "\n" not in sentence
    assert len(sentence) < 1000
    return not sentence


def test_what_is_damaged_here_is_good_before(model: dict[str, Path]) -> None:
    """The files that are damaged below pass as they are."""
    assert taken(model, {"m.gguf": GOOD_GGUF})
    assert taken(model, SAFE)


@BUDGET
@given(edits=EDITS)
def test_damaged_ggufs(model: dict[str, Path], edits: Sequence[tuple[str, int, bytes]]) -> None:
    """A GGUF with a few bytes changed, doubled, dropped or cut off."""
    taken(model, {"m.gguf": edited(GOOD_GGUF, edits)})


@BUDGET
@given(content=st.binary(max_size=2000), whole=st.booleans())
def test_random_bytes(model: dict[str, Path], content: bytes, whole: bool) -> None:
    """Random bytes, some of them behind a good beginning, never pass."""
    assert not taken(model, {"m.gguf": content if whole else GOOD_GGUF[:24] + content})
    assert not taken(model, SAFE | {"model.safetensors": content})


@BUDGET
@given(edits=EDITS)
def test_damaged_safetensors(model: dict[str, Path], edits: Sequence[tuple[str, int, bytes]]) -> None:
    """A safetensors file with a few bytes changed, doubled, dropped or cut off."""
    taken(model, SAFE | {"model.safetensors": edited(GOOD_SAFETENSORS, edits)})


@BUDGET
@given(name=st.sampled_from(["config.json", "tokenizer_config.json", INDEX]), edits=EDITS)
def test_damaged_json(model: dict[str, Path], name: str, edits: Sequence[tuple[str, int, bytes]]) -> None:
    """A file beside the weights with a few bytes changed, doubled, dropped or cut off."""
    taken(model, SAFE | {name: edited(SAFE[name], edits)})


FIELDS = sorted(
    {
        *json.loads(GOOD_CONFIG),
        "num_key_value_heads",
        "layers_block_type",
        "attn_layer_indices",
        "full_attention_interval",
    }
)
VALUES: list[object] = [
    *(
        None,
        True,
        -1,
        0,
        1,
        2,
        3,
        2**31,
        2**70,
        1.5,
        float("inf"),
        "",
        "x",
        "M*",
        [],
        [1, 2],
        [-1, "a"],
        [[]],
        [None] * 2,
    ),
    *(
        ["mamba", "hybrid"],
        ["full_attention", "conv"],
        ["linear_attention"] * 1000,
        {},
        {"bits": 4},
        {"bits": []},
        CONFIG,
    ),
    *({"quant_method": "x" * 100}, {"text_config": {"text_config": CONFIG}}, {"quant_method": "mxfp4", "format": 1}),
]


@BUDGET
@given(change=st.dictionaries(st.sampled_from(FIELDS), st.sampled_from(VALUES), max_size=4))
def test_configurations_that_make_no_sense(model: dict[str, Path], change: dict[str, object]) -> None:
    """Any JSON value in any field."""
    taken(model, SAFE | {"config.json": json.dumps({**CONFIG, **change}).encode()})


KEYS = [
    "block_count",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.sliding_window",
    "embedding_length",
]


@BUDGET
@given(
    values=st.dictionaries(st.sampled_from(KEYS), st.sampled_from(NUMBERS[:14]), max_size=5),
    kinds=st.sampled_from(["mamba2", "qwen3next", "gemma3", "deepseek2", "falcon-h1", "llama"]),
    template=st.text(alphabet="{}%#'\"()[]\\ ifend-x", max_size=200),
)
def test_ggufs_that_make_no_sense(model: dict[str, Path], values: dict[str, int], kinds: str, template: str) -> None:
    """Any count under any key, for architectures of every kind, with any chat template."""
    entries = [entry("general.architecture", STRING, kinds), entry("tokenizer.chat_template", STRING, template)]
    counts = {"block_count": 3, "ssm.conv_kernel": 4, "ssm.inner_size": 8, "ssm.state_size": 2, **values}
    entries += [entry(f"{kinds}.{key}", UINT32, value) for key, value in counts.items()]
    taken(model, {"m.gguf": gguf(entries)})
