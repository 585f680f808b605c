"""What a set of files is: facts from good ones, a sentence for what is no whole, harmless model."""

import pickle
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from rbee_runtime.errors import ModelFormatError, ModelStoreError
from rbee_runtime.models.estimate import GIB, memory
from rbee_runtime.models.facts import Format, ModelFacts
from rbee_runtime.models.formats import inspect
from tests.unit.models.gguf_builder import (
    ARRAY,
    BOOL,
    LLAMA,
    STRING,
    TENSOR,
    UINT32,
    array,
    entry,
    gguf,
    tensor,
)
from tests.unit.models.safetensors_builder import CONFIG, described, folder, safetensors, tensors

WEIGHTS = tensors(**{"model.embed_tokens.weight": [100, 64], "lm_head.weight": [100, 64]})
SAFE = {"config.json": CONFIG, "model.safetensors": WEIGHTS}
BASE = {"block_count": 6, "embedding_length": 64, "attention.head_count": 4, "attention.head_count_kv": 2}


def model(architecture: str, **keys: int | list[int] | list[bool]) -> bytes:
    """Return a GGUF of 6 layers with these further keys (`__` for a dot)."""
    entries = [entry("general.architecture", STRING, architecture)]
    for key, value in {**BASE, **{key.replace("__", "."): value for key, value in keys.items()}}.items():
        kind = BOOL if isinstance(value, list) and isinstance(value[0], bool) else UINT32
        raw = (ARRAY, array(kind, value)) if isinstance(value, list) else (UINT32, value)
        entries.append(entry(f"{architecture}.{key}", *raw))
    return gguf(entries)


def facts_of(root: Path, files: Mapping[str, object], *, allow_pickle: bool = False) -> ModelFacts:
    return inspect(folder(root, files), allow_pickle=allow_pickle)


def test_a_gguf_gives_its_facts(tmp_path: Path) -> None:
    """Counts from the metadata, sizes from the tensors; facts survive the way through JSON."""
    facts = facts_of(tmp_path, {"m.gguf": gguf()})
    assert (facts.format, facts.main, facts.architecture, facts.quantisation) == (Format.GGUF, "m.gguf", "llama", "F32")
    assert (facts.parameters, facts.weights_bytes, facts.embedding_bytes) == (32, 128, 128)
    assert (facts.layers, facts.heads, facts.kv_heads, facts.key_length, facts.vocabulary) == (2, 4, (2, 2), 16, 3)
    assert (facts.cached, facts.windows, facts.context_length) == ((64, 64), (0, 0), 4096)
    assert facts.chat_template == "{% for m in messages %}{{ m.content }}{% endfor %}"
    assert msgspec.json.decode(msgspec.json.encode(facts), type=ModelFacts) == facts


@pytest.mark.engine
def test_the_real_model_gives_its_facts(smol_model: Path) -> None:
    """SmolLM2-135M-Instruct as published: 134.5 million parameters, 30 layers, 3 of 9 heads cached, 8192 tokens."""
    facts = inspect([(smol_model.name, smol_model)])
    assert (facts.parameters, facts.quantisation, facts.layers, facts.heads) == (134_515_008, "Q4_1", 30, 9)
    assert (set(facts.kv_heads), facts.context_length, facts.vocabulary) == ({3}, 8192, 49152)
    assert facts.weights_bytes == 96_576_768
    assert "<|im_start|>" in (facts.chat_template or "")


LAYERS: dict[str, tuple[bytes, dict[str, object]]] = {
    "heads per layer": (model("deci", attention__head_count_kv=[2, 0, 1, 2, 0, 4]), {"kv_heads": (2, 0, 1, 2, 0, 4)}),
    "own key length": (model("qwen3", attention__key_length=128, attention__value_length=64), {"cached": (384,) * 6}),
    "windows by architecture": (
        model("gemma3", attention__sliding_window=512),
        {"windows": (512, 512, 512, 512, 512, 0), "cached": (64,) * 6},
    ),
    "windows by period": (
        model("x", attention__sliding_window=8, attention__sliding_window_pattern=3),
        {"windows": (8, 8, 0, 8, 8, 0)},
    ),
    "full layer first": (model("smallthinker", attention__sliding_window=8), {"windows": (0, 8, 8, 8, 0, 8)}),
    "windows by layer": (
        model("x", attention__sliding_window=8, attention__sliding_window_pattern=[True, False] * 3),
        {"windows": (8, 0) * 3},
    ),
    "a window of an architecture without a rule": (model("x", attention__sliding_window=8), {"windows": (0,) * 6}),
    "narrow heads in windows": (
        model("gemma4", attention__sliding_window=8, attention__sliding_window_pattern=[True, False] * 3,
              attention__key_length_swa=4, attention__value_length_swa=4),
        {"cached": (16, 64) * 3},
    ),
    "latent": (
        model("deepseek2", attention__head_count_kv=1, attention__key_length_mla=192,
              attention__kv_lora_rank=512, rope__dimension_count=64),
        {"cached": (576,) * 6, "latent": True},
    ),
    "state space only": (
        model("mamba2", ssm__conv_kernel=4, ssm__inner_size=128, ssm__state_size=16, ssm__group_count=1),
        {"cached": (0,) * 6, "state": 6 * (3 * (128 + 32) + 16 * 128)},
    ),
    "hybrid by interval": (
        model("qwen3next", ssm__conv_kernel=4, ssm__inner_size=128, ssm__state_size=16, ssm__group_count=1),
        {"cached": (0, 0, 0, 64, 0, 0), "state": 5 * (3 * (128 + 32) + 16 * 128)},
    ),
    "hybrid by heads": (
        model("jamba", attention__head_count_kv=[0, 2, 0, 0, 0, 0], ssm__conv_kernel=4,
              ssm__inner_size=128, ssm__state_size=16),
        {"cached": (0, 64, 0, 0, 0, 0), "state": 5 * (3 * 128 + 16 * 128)},
    ),
    "rwkv": (model("rwkv7", wkv__head_size=64, token_shift_count=2), {"cached": (0,) * 6, "state": 6 * 64 * 66}),
    "shared cache": (model("gemma3n", attention__shared_kv_layers=2), {"cached": (64, 64, 64, 64, 0, 0)}),
    "experts": (
        model("qwen3moe", expert_count=128, expert_used_count=8, expert_feed_forward_length=768),
        {"experts": 128, "experts_used": 8, "feed_forward": 6144},
    ),
    "mixture named": (
        gguf((*LLAMA, entry("general.file_type", UINT32, 15))), {"quantisation": "Q4_K_M"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_what_layers_remember(tmp_path: Path, case: str) -> None:
    """Attention, windows, latents, recurrent state and experts are read by each architecture's rules."""
    content, expected = LAYERS[case]
    facts = facts_of(tmp_path, {"m.gguf": content})
    assert {key: getattr(facts, key) for key in expected} == expected
    assert memory(facts, context=512).total > 0


def test_safetensors_give_their_facts(tmp_path: Path) -> None:
    """Counts from config.json, sizes from the headers, the template from beside."""
    facts = facts_of(tmp_path, {**SAFE, "tokenizer_config.json": {"chat_template": "t"}, "README.md": b"# x"})
    assert (facts.format, facts.main, facts.architecture) == (
        Format.SAFETENSORS,
        "model.safetensors",
        "LlamaForCausalLM",
    )
    assert (facts.parameters, facts.weights_bytes, facts.embedding_bytes) == (12800, 51200, 25600)
    assert (facts.layers, facts.kv_heads, facts.cached, facts.vocabulary) == (2, (2, 2), (64, 64), 100)
    assert (facts.quantisation, facts.context_length, facts.chat_template) == ("F32", 4096, "t")


CONFIGS: dict[str, tuple[dict[str, object], dict[str, object]]] = {
    "text part": ({"text_config": CONFIG, "num_hidden_layers": 9}, {"layers": 2}),
    "head_dim": ({"head_dim": 128}, {"key_length": 128, "cached": (512, 512)}),
    "one query": ({"num_key_value_heads": None, "multi_query": True}, {"kv_heads": (1, 1)}),
    "no grouping": ({"num_key_value_heads": None}, {"kv_heads": (4, 4)}),
    "windows by kind": (
        {"sliding_window": 128, "layer_types": ["sliding_attention", "full_attention"]},
        {"windows": (128, 0)},
    ),
    "windows everywhere": ({"model_type": "mistral", "sliding_window": 128}, {"windows": (128, 128)}),
    "windows switched off": (
        {"model_type": "mistral", "sliding_window": 128, "use_sliding_window": False},
        {"windows": (0, 0)},
    ),
    "windows by family": ({"model_type": "gemma2", "sliding_window": 128}, {"windows": (128, 0)}),
    "latent": ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, {"latent": True, "cached": (576, 576)}),
    "linear": (
        {"layer_types": ["linear_attention", "full_attention"], "linear_num_key_heads": 2, "linear_num_value_heads": 4,
         "linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_conv_kernel_dim": 4},
        {"cached": (0, 64), "state": 3 * (32 + 32) + 256},
    ),
    "state space": (
        {"layers_block_type": ["mamba", "attention"], "mamba_d_state": 16, "mamba_d_conv": 4, "mamba_expand": 2,
         "mamba_n_groups": 1},
        {"cached": (0, 64), "state": 3 * (128 + 32) + 2048},
    ),
    "pattern": ({"hybrid_override_pattern": "-*", "ssm_state_size": 16}, {"cached": (0, 64), "state": 0}),
    "experts": (
        {"num_local_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
        {"experts": 8, "experts_used": 2, "feed_forward": 64},
    ),
    "quantised": ({"quantization_config": {"quant_method": "awq", "bits": 4}}, {"quantisation": "awq-4bit"}),
    "fp8": ({"quantization_config": {"quant_method": "fp8"}}, {"quantisation": "fp8"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_what_a_configuration_says(tmp_path: Path, case: str) -> None:
    """Fields are found by each family's names."""
    change, expected = CONFIGS[case]
    facts = facts_of(tmp_path, {**SAFE, "config.json": {**CONFIG, **change}})
    assert {key: getattr(facts, key) for key in expected} == expected
    assert memory(facts, context=512, engine="vllm").total > 2 * GIB


def test_packed_parameters_are_counted(tmp_path: Path) -> None:
    """Eight parameters of 4 bits share an int32; zeros and scales are none."""
    header = {"a.qweight": described("I32", [8, 2], 0, 64), "a.qzeros": described("I32", [1], 64, 68)}
    config = {**CONFIG, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    facts = facts_of(tmp_path, {"config.json": config, "model.safetensors": safetensors(header, data=68)})
    assert (facts.parameters, facts.weights_bytes, facts.quantisation) == (128, 68, "gptq-4bit")


MAP = {"a": "m-00001-of-00002.safetensors", "b": "m-00002-of-00002.safetensors"}
SHARDED: dict[str, object] = {
    "config.json": CONFIG,
    "model.safetensors.index.json": {"metadata": {"total_size": 8}, "weight_map": MAP},
    MAP["a"]: tensors(a=[1]),
    MAP["b"]: tensors(b=[1]),
}


def test_shards_are_added_up(tmp_path: Path) -> None:
    """With an index only its files count: a second copy of the weights beside them does not."""
    facts = facts_of(tmp_path, {**SHARDED, "consolidated.safetensors": tensors(a=[1], b=[1])})
    assert (facts.weights_bytes, facts.main) == (8, MAP["a"])
    without = {name: content for name, content in SHARDED.items() if not name.endswith("index.json")}
    assert facts_of(tmp_path / "2", {**without, "consolidated.safetensors": tensors(a=[9])}).weights_bytes == 8


def test_parts_and_projector_of_a_gguf_are_added_up(tmp_path: Path) -> None:
    """A model in two parts with an image projector beside it is one model."""
    parts = {
        f"m-0000{number + 1}-of-00002.gguf": gguf(
            (*LLAMA, entry("split.no", UINT32, number), entry("split.count", UINT32, 2)), [tensor(f"t{number}")]
        )
        for number in (0, 1)
    }
    projector = gguf((entry("general.architecture", STRING, "clip"),), [TENSOR])
    facts = facts_of(tmp_path, {"mmproj.gguf": projector, **parts})
    assert (facts.main, facts.weights_bytes, facts.projector_bytes) == ("m-00001-of-00002.gguf", 256, 128)


class Harmful:
    """Writes a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return (Path.touch, (self.mark,))


PICKLES = {
    "pytorch_model.bin": b"anything",
    "model.pt": b"anything",
    "model.PTH": b"anything",
    "model.ckpt": b"anything",
    "model.pkl": b"anything",
    "model.gguf": b"PK\x03\x04 a torch archive under another name",
    "model.safetensors": b"\x80\x02}q\x00.............",
    "weights": b"\x80\x04\x95....",
}


@pytest.mark.parametrize("name", PICKLES)
def test_pickles_are_refused(tmp_path: Path, name: str) -> None:
    """By name or by content, beside good weights or alone, with the two ways out in the sentence."""
    for beside in ({}, {"config.json": CONFIG}, {"good.gguf": gguf()}):
        with pytest.raises(ModelFormatError, match=rf"{name} is a pickle.*use safetensors.*set store.allow_pickle"):
            facts_of(tmp_path, {**beside, name: PICKLES[name]})


@pytest.mark.parametrize("allowed", [False, True])
def test_a_harmful_pickle_never_runs(tmp_path: Path, allowed: bool) -> None:
    """Looking at a pickle runs nothing of it, even where it is allowed."""
    mark = tmp_path / "ran"
    files = {"config.json": CONFIG, "pytorch_model.bin": pickle.dumps(Harmful(mark))}
    try:
        facts = facts_of(tmp_path / "m", files, allow_pickle=allowed)
    except ModelFormatError:
        assert not allowed
    else:
        assert (facts.format, facts.weights_bytes) == (Format.PICKLE, len(files["pytorch_model.bin"]))
    assert not mark.exists()


def test_a_header_length_that_looks_like_a_pickle_is_none(tmp_path: Path) -> None:
    """A safetensors header of 640 bytes begins with the bytes of a pickle of protocol 2."""
    header = WEIGHTS[8:].split(b"\0", 1)[0]
    content = safetensors(header.ljust(0x280), data=51200)
    assert content[:2] == b"\x80\x02"
    assert facts_of(tmp_path, {**SAFE, "model.safetensors": content}).weights_bytes == 51200


REFUSED: dict[str, tuple[dict[str, object], str]] = {
    "nothing": ({}, r"no weights are among the files \(nothing\)"),
    "unknown": ({"model.onnx": b"\x08\x07", "x.txt": b""}, r"\(model.onnx, x.txt\); GGUF and safetensors models"),
    "two models": ({"a.gguf": gguf(), "b.gguf": gguf()}, r"the files are 2 models \(a.gguf, b.gguf\); name one"),
    "a projector alone": ({"p.gguf": gguf((entry("general.architecture", STRING, "clip"),))}, "p.gguf is a GGUF mmpr"),
    "an adapter alone": ({"l.gguf": gguf((*LLAMA, entry("general.type", STRING, "adapter")))}, "l.gguf is a GGUF a"),
    "no configuration": ({"model.safetensors": WEIGHTS}, "the weights have no config.json beside them"),
    "configuration elsewhere": ({"x/config.json": CONFIG, "model.safetensors": WEIGHTS}, "no config.json beside"),
    "a shard lacks": (
        {name: content for name, content in SHARDED.items() if name != MAP["b"]},
        "model.safetensors.index.json names m-00002-of-00002.safetensors, which is not there; fetch all 2",
    ),
    "a shard of another model": ({**SHARDED, MAP["b"]: tensors(c=[1])}, "1 of its 2 tensors are not in the files"),
    "heads for other layers": ({"m.gguf": model("x", attention__head_count_kv=[1, 2])}, "has 2 values for 6 layers"),
    "10^9 layers": ({"m.gguf": model("x", block_count=10**9)}, "m.gguf is damaged: it has 1000000000 layers"),
    "no layers": ({"m.gguf": gguf(LLAMA[:1])}, "m.gguf does not say llama.block_count"),
    "no architecture": ({"m.gguf": gguf(LLAMA[1:])}, r"does not say what architecture it has \(general.architecture\)"),
    "absurd count": ({"m.gguf": model("x", embedding_length=2**32 - 1)}, "x.embedding_length is no count between 0"),
    "template is a number": (
        {"m.gguf": gguf((*LLAMA[:-1], entry("tokenizer.chat_template", UINT32, 1)))},
        "its chat template is no text",
    ),
    "named template nests": (
        {"m.gguf": gguf((*LLAMA, entry("tokenizer.chat_template.rag", STRING, "{{" + "[" * 70)))},
        "m.gguf has a chat template that nests more than 64 deep",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_model_is_refused(tmp_path: Path, case: str) -> None:
    """Missing, foreign, doubled and absurd: one sentence each, of the store's kind of error."""
    files, sentence = REFUSED[case]
    with pytest.raises(ModelFormatError, match=sentence) as refusal:
        facts_of(tmp_path, files)
    assert isinstance(refusal.value, ModelStoreError)


def test_a_name_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Two contents under one name are no model."""
    (file,) = folder(tmp_path, {"m.gguf": gguf()})
    with pytest.raises(ModelFormatError, match="two files of one name"):
        inspect([file, file])
