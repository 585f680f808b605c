"""The header of a GGUF file: good ones come back whole, each kind of bad one is refused with its sentence."""

import struct
import time
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from gguf import GGMLQuantizationType, GGUFWriter
from gguf.constants import GGML_QUANT_SIZES

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.gguf import read
from rbee_runtime.models.gguf_parts import gather
from rbee_runtime.models.gguf_tensors import TENSOR_TYPES
from rbee_runtime.models.gguf_values import MAX_STRINGS, Array, ValueType
from tests.unit.models.gguf_builder import (
    ARCHITECTURE,
    ARRAY,
    BOOL,
    FLOAT32,
    INT32,
    LLAMA,
    STRING,
    TENSOR,
    UINT8,
    UINT32,
    UINT64,
    array,
    entry,
    gguf,
    tensor,
    text,
)


def written(folder: Path, content: bytes, name: str = "m.gguf") -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("version", [2, 3])
def test_a_header_is_read(tmp_path: Path, version: int) -> None:
    """Version, metadata, tensors and the place of the data come back from both versions that are served."""
    file = read(written(tmp_path, gguf(version=version)))
    assert (file.version, file.alignment, file.size - file.data) == (version, 32, 128)
    assert file.metadata["llama.block_count"] == 2
    assert file.metadata["tokenizer.ggml.tokens"] == Array(ValueType.STRING, 3, ("a", "b", "<eos>"))
    assert [(t.name, t.kind.name, t.shape, t.size) for t in file.tensors] == [("token_embd.weight", "F32", (32,), 128)]


def by_the_reference(path: Path, data: "np.ndarray[tuple[int, ...], np.dtype[np.float32]]") -> None:
    """Write every value type, and two tensors, with the gguf package."""
    writer = GGUFWriter(path, "llama")
    writer.add_uint8("u8", 255)
    writer.add_int8("i8", -128)
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 1e300)
    writer.add_bool("yes", True)
    writer.add_string("text", "Bienen \N{HONEYBEE}")
    writer.add_array("numbers", [1, 2, 3])
    writer.add_array("words", ["a", ""])
    writer.add_array("nested", [[1, 2], [3]])
    writer.add_custom_alignment(64)
    writer.add_tensor("a", data)
    writer.add_tensor("b", np.zeros((2, 18), dtype=np.uint8), raw_dtype=GGMLQuantizationType.Q4_0)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def test_a_file_of_the_reference_writer_reads_back_equal(tmp_path: Path) -> None:
    """What the gguf package writes, every value type and arrays in arrays included, comes back the same."""
    path, data = tmp_path / "w.gguf", np.arange(96, dtype=np.float32).reshape(3, 32)
    by_the_reference(path, data)
    file = read(path)
    values = {key: plain(value) for key, value in file.metadata.items() if "." not in key}
    assert values == {
        "u8": 255,
        "i8": -128,
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 1e300,
        "yes": True,
        "text": "Bienen \N{HONEYBEE}",
        "numbers": (1, 2, 3),
        "words": ("a", ""),
        "nested": ((1, 2), (3,)),
    }
    places = [(t.name, t.shape, t.size, t.offset) for t in file.tensors]
    assert places == [("a", (32, 3), 384, 0), ("b", (32, 2), 36, 384)]
    assert path.read_bytes()[file.data :][:384] == data.tobytes()


def plain(value: object) -> object:
    return tuple(map(plain, value.items or ())) if isinstance(value, Array) else value


def test_the_tensor_types_are_those_of_the_reference() -> None:
    """Blocks and sizes agree with the gguf package; Q8_1 is never in files."""
    theirs = {int(kind): sizes for kind, sizes in GGML_QUANT_SIZES.items() if kind.name != "Q8_1"}
    assert {number: (kind.block, kind.size) for number, kind in TENSOR_TYPES.items()} == theirs
    assert {number: kind.name for number, kind in TENSOR_TYPES.items()} == {
        number: GGMLQuantizationType(number).name for number in theirs
    }


TWO = (tensor("a", (32,)), tensor("b", (32,), offset=96))
BAD = {
    "empty": (b"", "is not a GGUF model: it starts with b''"),
    "other magic": (b"PK\x03\x04" + bytes(100), "is not a GGUF model: it starts with b'PK"),
    "fixed part cut": (gguf()[:23], "is cut off after 23 bytes"),
    "big-endian": (gguf(order=">"), "is a big-endian GGUF"),
    "version 0": (gguf(version=0), "is GGUF version 0"),
    "version 1": (gguf(version=1), "is GGUF version 1"),
    "version 4": (gguf(version=4), "is GGUF version 4"),
    "no metadata": (gguf(()), "is damaged: its header names 1 tensors and 0 metadata entries"),
    "2^63 tensors": (gguf(counts=(2**63, 1)), "is damaged: its header names 9223372036854775808 tensors"),
    "2^64 metadata": (gguf(counts=(1, 2**64 - 1)), "is damaged: its header names 1 tensors and 18446744073709551615"),
    "more tensors than bytes": (gguf(counts=(60000, 1)), "is cut off: .* but its header alone needs 1440037"),
    "huge key": (gguf((text(b"k", length=2**63) + bytes(12),)), "a metadata key is 9223372036854775808 bytes long"),
    "empty key": (gguf((entry("", UINT32, 1),)), "'' is not a metadata key"),
    "key is no text": (gguf((entry(b"\xff\xfe", UINT32, 1),)), "is not a metadata key"),
    "key with a newline": (gguf((entry("a\nb", UINT32, 1),)), "is not a metadata key"),
    "key twice": (gguf((ARCHITECTURE, ARCHITECTURE)), "general.architecture is there twice"),
    "unknown value type": (gguf((entry("k", 13, 0),)), "k has the unknown value type 13"),
    "unknown item type": (gguf((entry("k", ARRAY, array(99, [1])),)), "k has the unknown value type 99"),
    "truth value 2": (gguf((entry("k", BOOL, 2),)), "k is a truth value of 2"),
    "truth value 2 in an array": (gguf((entry("k", ARRAY, array(BOOL, [1, 2])),)), "k is a truth value of 2"),
    "huge text": (gguf((entry("k", STRING, text("x", length=2**40)[8:]),), data=0), "is cut off|bytes long"),
    "text longer than the limit": (
        gguf((text("k") + struct.pack("<I", STRING) + text("", length=2**20 + 1),)),
        "k is ",
    ),
    "text past the end": (gguf((text("k") + struct.pack("<I", STRING) + text("", length=2**19),)), "is cut off: "),
    "array past the end": (gguf((entry("k", ARRAY, array(UINT64, [], count=2**61)),)), "is cut off: .* fetch it again"),
    "array longer than 64 bits": (gguf((entry("k", ARRAY, array(UINT64, [], count=2**64 - 1)),)), "is cut off: "),
    "too many strings": (gguf((entry("k", ARRAY, array(STRING, [], count=2**40)),)), f"to more than {MAX_STRINGS}"),
    "string in a long array past the end": (
        gguf((entry("k", ARRAY, array(STRING, [text("", length=2**19)[8:]] * 2000)),))[:9000],
        "is cut off: ",
    ),
    "string in a long array too long": (
        gguf((entry("k", ARRAY, struct.pack("<IQ", STRING, 2000) + text("", length=2**62) + bytes(16000)),)),
        "a string is 4611686018427387904 bytes long",
    ),
    "too many arrays in arrays": (gguf((entry("k", ARRAY, array(ARRAY, [], count=2**40)),)), "holds more than 65536"),
    "arrays too deep": (
        gguf((entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1) * 5 + array(UINT8, [1])),)),
        "k nests arrays more than 4 deep",
    ),
    "alignment 0": (gguf((entry("general.alignment", UINT32, 0),)), "its alignment is 0, not a power of two"),
    "alignment 48": (gguf((entry("general.alignment", UINT32, 48),)), "its alignment is 48, not a power of two"),
    "alignment 128 KiB": (gguf((entry("general.alignment", UINT32, 131072),)), "its alignment is 131072"),
    "alignment -32": (gguf((entry("general.alignment", INT32, -32),)), "its alignment is -32"),
    "alignment 32.0": (gguf((entry("general.alignment", FLOAT32, 32.0),)), "its alignment is 32.0"),
    "alignment is text": (gguf((entry("general.alignment", STRING, "x" * 99),)), "its alignment is x{40}, not"),
    "tensor name too long": (gguf(tensors=(tensor("x" * 65),)), "a tensor name is 65 bytes long, at most 64"),
    "tensor without a name": (gguf(tensors=(tensor(""),)), "'' is not a tensor name"),
    "tensor named by control characters": (gguf(tensors=(tensor("a\x1b[2J"),)), "is not a tensor name"),
    "5 dimensions": (gguf(tensors=(tensor("t", (1,) * 5),)), "tensor t has 5 dimensions, at most 4"),
    "2^32-1 dimensions": (gguf(tensors=(text("t") + b"\xff" * 32,)), "tensor t has 4294967295 dimensions"),
    "a dimension of 0": (gguf(tensors=(tensor("t", (32, 0)),)), "tensor t has the impossible shape 32x0"),
    "elements overflow": (gguf(tensors=(tensor("t", (2**32, 2**32)),)), "impossible shape 4294967296x4294967296"),
    "dimension negative as int64": (gguf(tensors=(tensor("t", (2**63,)),)), "impossible shape 9223372036854775808"),
    "type given up": (gguf(tensors=(tensor("t", kind=4),)), "tensor t of the unknown type 4; it needs a newer rbee"),
    "unknown type": (gguf(tensors=(tensor("t", kind=2**31),)), "tensor t of the unknown type 2147483648"),
    "row not of whole blocks": (gguf(tensors=(tensor("t", (33,), kind=2),)), "rows of 33 elements, Q4_0 stores 32"),
    "tensor twice": (gguf(tensors=(TENSOR, TENSOR)), "tensor token_embd.weight is there twice"),
    "offset not aligned": (gguf(tensors=(tensor("t", offset=4),)), "tensor t begins at 4, not on a multiple of 32"),
    "tensors overlap": (gguf(tensors=TWO, data=256), "tensors a and b overlap"),
    "offset past the end": (gguf(tensors=(tensor("t", offset=2**63),)), "is cut off: tensor t ends at byte 92233"),
    "tensor past the end": (gguf(data=127), "is cut off: tensor token_embd.weight ends at byte"),
    "description cut": (gguf(data=0)[:-60], "is cut off: "),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused(tmp_path: Path, case: str) -> None:
    """Each way of being damaged or hostile gets one sentence with the file's name."""
    content, sentence = BAD[case]
    with pytest.raises(ModelFormatError, match=sentence) as refusal:
        read(written(tmp_path, content))
    assert str(refusal.value).startswith(f"{tmp_path}/m.gguf ")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("size", [*range(24, 470, 7)])
def test_a_file_cut_anywhere_is_refused(tmp_path: Path, size: int) -> None:
    """No prefix of a file passes for the file."""
    content = gguf()
    with pytest.raises(ModelFormatError, match="is cut off"):
        read(written(tmp_path, content[: min(size, len(content) - 1)]))


def test_a_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    """No file, and a folder in its place, are errors with the path; a given name stands in for the path."""
    with pytest.raises(ModelFormatError, match=r"cannot read the model file .*gone: No such file"):
        read(tmp_path / "gone")
    with pytest.raises(ModelFormatError, match="cannot read the model file m: Is a directory"):
        read(tmp_path, "m")


def test_a_large_vocabulary_is_stepped_over(tmp_path: Path) -> None:
    """250,000 tokens with 500,000 merges take well under a second and a few MiB; only their number is kept."""
    tokens = array(STRING, [f"token {number}" for number in range(250_000)])
    merges = array(STRING, [f"a{number} b" for number in range(500_000)])
    scores = array(FLOAT32, [0.0] * 250_000)
    more = [entry(key, ARRAY, value) for key, value in (("t", tokens), ("m", merges), ("s", scores))]
    path = written(tmp_path, gguf((ARCHITECTURE, *more)))
    began = time.process_time()
    file = read(path)
    assert time.process_time() - began < 0.5
    assert file.metadata["t"] == Array(ValueType.STRING, 250_000, None)
    tracemalloc.start()
    read(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


def part(number: int, count: int, metadata: Sequence[bytes] = (), *, said: int = 2) -> bytes:
    split = (
        entry("split.no", UINT32, number),
        entry("split.count", UINT32, count),
        entry("split.tensors.count", INT32, said),
    )
    return gguf((*metadata, *split), (tensor(f"t{number}"),) if number else ())


PARTS = {
    "m-00001-of-00003.gguf": part(0, 3, LLAMA),
    "m-00002-of-00003.gguf": part(1, 3),
    "m-00003-of-00003.gguf": part(2, 3),
}


def gathered(folder: Path, files: dict[str, bytes]) -> list[list[str]]:
    read_files = [read(written(folder, content, name), name) for name, content in files.items()]
    return [[file.name for file in model] for model in gather(read_files)]


def test_parts_make_one_model(tmp_path: Path) -> None:
    """Parts are put in order whatever the order of the files; other models stay apart."""
    shuffled = dict(reversed([*PARTS.items(), ("other.gguf", gguf())]))
    assert gathered(tmp_path, shuffled) == [sorted(PARTS), ["other.gguf"]]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"m-00002-of-00003.gguf": None}, r"m lacks part 2 of 3 \(m-00002-of-00003.gguf\); fetch all parts"),
        (
            {"m-00002-of-00003.gguf": part(2, 3)},
            "m-00002-of-00003.gguf is part 3 of 3; name it like model-00003-of-00003",
        ),
        ({"m.gguf": part(1, 3)}, "m.gguf is part 2 of 3; name it like"),
        ({"m-00004-of-00003.gguf": part(3, 3)}, "says that it is part 3 of 3"),
        ({"m-00002-of-00002.gguf": part(1, 2)}, "m has parts that disagree on how many there are"),
        ({"m-00001-of-00003.gguf": part(0, 3, LLAMA, said=3)}, "its parts hold 2 tensors, it says 3"),
        ({"x.gguf": gguf((ARCHITECTURE, entry("split.count", STRING, "2")))}, "says that its model has 2 parts"),
        ({"x.gguf": gguf((ARCHITECTURE, entry("split.count", UINT32, 2**31)))}, "its model has 2147483648 parts"),
        ({"v.gguf": gguf(tensors=())}, "v.gguf holds no tensors"),
    ],
)
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, bytes | None], sentence: str) -> None:
    """A missing, misnamed, doubled or foreign part gets a sentence that says which."""
    files = {name: content for name, content in {**PARTS, **change}.items() if content is not None}
    with pytest.raises(ModelFormatError, match=sentence):
        gathered(tmp_path, files)


def test_a_tensor_in_two_parts_is_refused(tmp_path: Path) -> None:
    """Parts of different files put together by mistake do not pass for one model."""
    same = {"m-00003-of-00003.gguf": PARTS["m-00003-of-00003.gguf"].replace(b"t2", b"t1")}
    with pytest.raises(ModelFormatError, match="m is damaged: a tensor is in more than one part"):
        gathered(tmp_path, PARTS | same)
