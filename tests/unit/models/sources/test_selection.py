import pytest

from rbee_runtime.errors import ModelStoreError
from rbee_runtime.models.sources.selection import select

PARTS = [f"Q8/bee-Q8-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
SHARDS = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
BINS = [f"pytorch_model-0000{n}-of-00002.bin" for n in (1, 2)]
INDEX = "model.safetensors.index.json"

CHOSEN = [
    pytest.param(["bee.gguf", "README.md", ".gitattributes"], "", ["bee.gguf"], id="one GGUF"),
    pytest.param(PARTS, "", PARTS, id="one GGUF in parts"),
    pytest.param(["bee.gguf", "mmproj-bee-f16.gguf", "bee.imatrix.gguf"], "", ["bee.gguf"], id="projector is none"),
    pytest.param(["a-Q4.gguf", "a-Q8.gguf"], "*Q8.gguf", ["a-Q8.gguf"], id="quantisation by glob"),
    pytest.param(["a-Q4.gguf", *PARTS], "Q8/*", PARTS, id="folder of parts by glob"),
    pytest.param(
        ["a-Q4.gguf", "a-Q8.gguf", "mmproj-a-Q8.gguf", "mmproj-a-f16.gguf"],
        "*Q4.gguf|mmproj*f16.gguf",
        ["a-Q4.gguf", "mmproj-a-f16.gguf"],
        id="model and projector by a glob each",
    ),
    pytest.param(["a.gguf", "mmproj-a.gguf"], "*.gguf|a*", ["a.gguf", "mmproj-a.gguf"], id="globs that overlap"),
    pytest.param(["a.gguf", "mmproj-a.gguf"], "*.gguf", ["a.gguf", "mmproj-a.gguf"], id="projector by glob"),
    pytest.param(
        [*SHARDS, INDEX, "config.json", "tokenizer.json", "pytest.txt", "pytorch_model.bin", "training_args.bin"],
        "",
        ["config.json", *SHARDS, INDEX, "tokenizer.json"],
        id="safetensors, no pickles",
    ),
    pytest.param(
        ["model.safetensors", "config.json", "original/consolidated.00.pth", "original/params.json"],
        "",
        ["config.json", "model.safetensors"],
        id="no original folder",
    ),
    pytest.param(
        ["consolidated.safetensors", *SHARDS, INDEX, "consolidated.safetensors.index.json"],
        "",
        [*SHARDS, INDEX],
        id="no consolidated copy",
    ),
    pytest.param(
        ["a.gguf", "model.safetensors", "config.json"], "*.safetensors", ["config.json", "model.safetensors"], id="both"
    ),
    pytest.param(
        ["fp8/model.safetensors", "fp8/config.json", "config.json"],
        "fp8/*.safetensors",
        ["fp8/config.json", "fp8/model.safetensors"],
        id="folder",
    ),
    pytest.param(["weights.bin", "config.json"], "weights.bin", ["config.json", "weights.bin"], id="pickle by name"),
    pytest.param(
        [*BINS, "pytorch_model.bin.index.json", "config.json", "tokenizer.json", "training_args.bin"],
        "pytorch_model-*",
        [*BINS, "pytorch_model.bin.index.json", "config.json", "tokenizer.json"],
        id="pickles by glob",
    ),
    pytest.param(["a.gguf", "a.bin", "config.json"], "a.*", ["a.bin", "a.gguf"], id="pickle beside a GGUF"),
]


@pytest.mark.parametrize(("names", "glob", "chosen"), CHOSEN)
def test_a_repository_gives_the_files_of_one_model(names: list[str], glob: str, chosen: list[str]) -> None:
    """The glob chooses; without one the only model is chosen, with what engines read beside it."""
    assert list(select(names, glob=glob, where="hf:acme/bee")) == sorted(chosen)


REFUSED = [
    pytest.param(
        ["a-Q4.gguf", "a-Q8.gguf"],
        "",
        "2 GGUF models; choose one .*:a-Q4.gguf; there are a-Q4.gguf, a-Q8.gguf",
        id="two",
    ),
    pytest.param(
        ["a-Q4.gguf", *PARTS], "*.gguf", r"matches 2 models .* choose one: Q8/bee-Q8-\*.gguf, a-Q4.gguf", id="wide glob"
    ),
    pytest.param(["a-Q4.gguf"], "a-Q5.gguf", "no file that matches 'a-Q5.gguf'; there is a-Q4.gguf", id="no match"),
    pytest.param(PARTS[:2], "", r"lacks 1 of the 3 parts of Q8/bee-Q8\.gguf \(part 3 first\)", id="missing part"),
    pytest.param(["a.gguf", "b.txt"], "a.gguf|mm*", r"no file that matches 'mm\*'", id="one glob matches nothing"),
    pytest.param(SHARDS, SHARDS[0], "lacks 1 of the 2 parts", id="glob leaves a part out"),
    pytest.param(BINS, BINS[0], "lacks 1 of the 2 parts", id="glob leaves a pickle out"),
    pytest.param(["a.gguf", "model.safetensors"], "", "both GGUF and safetensors", id="both kinds"),
    pytest.param(["a.safetensors", "b.safetensors"], "", "2 sets of safetensors weights", id="two sets"),
    pytest.param(["pytorch_model.bin", "config.json"], "", "can run programs .*pytorch_model.bin", id="pickle only"),
    pytest.param(["unet/model.safetensors"], "", r"in folders only; choose by a glob, such as :unet/\*", id="deep"),
    pytest.param(["README.md"], "", "has no model.*there is README.md", id="no model"),
    pytest.param([], "", "there are no files at all", id="empty"),
    pytest.param([f"a-Q{n}.gguf" for n in range(40)], "", "and 28 more$", id="many"),
]


@pytest.mark.parametrize(("names", "glob", "said"), REFUSED)
def test_a_choice_that_is_not_clear_names_the_candidates(names: list[str], glob: str, said: str) -> None:
    """Nothing is guessed, and the sentence says what to write."""
    with pytest.raises(ModelStoreError, match=said) as refusal:
        select(names, glob=glob, where="hf:acme/bee")
    assert "\n" not in str(refusal.value)
