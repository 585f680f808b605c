"""Safetensors: headers, indexes and the JSON beside them; each kind of bad one is refused with its sentence."""

import contextlib
import json
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from rbee_runtime.errors import ModelFormatError
from rbee_runtime.models.hf_config import read_config, template_file, template_of_tokenizer
from rbee_runtime.models.safetensors import read
from rbee_runtime.models.safetensors_index import check_numbers, read_index
from tests.unit.models.safetensors_builder import CONFIG, described, safetensors, tensors

F32 = described("F32", [2, 3], 0, 24)


def written(folder: Path, content: bytes) -> Path:
    path = folder / "m"
    path.write_bytes(content)
    return path


def test_a_header_is_read(tmp_path: Path) -> None:
    """Names, types, shapes and places come back; so do escapes, spaces, empty and scalar tensors."""
    header = b' {"__metadata__":{"format":"pt","note":"\\u00e9{}"}, "a.\\u0062" : %s,"e":%s,"s":%s}  '
    entries = [F32, described("I8", [0, 5], 24, 24), described("F4", [2], 24, 25)]
    content = safetensors(header[1:] % tuple(json.dumps(entry).encode() for entry in entries), data=25)
    file = read(written(tmp_path, content))
    shown = [(t.name, t.dtype, t.shape, t.begin, t.size, t.elements) for t in file.tensors]
    assert shown == [("a.b", "F32", (2, 3), 0, 24, 6), ("e", "I8", (0, 5), 24, 0, 0), ("s", "F4", (2,), 24, 1, 2)]


BAD = {
    "empty": (b"", "is cut off after 0 bytes"),
    "no header": (safetensors(b"", data=4), "its header does not begin with {"),
    "length 2^63": (
        safetensors(b"{}", length=2**63),
        "not a safetensors model: .* a header of 9223372036854775808 bytes",
    ),
    "length over the format's limit": (safetensors(b"{}", length=100_000_001), "announce a header of 100000001 bytes"),
    "header cut": (safetensors(b"{}", length=1000), "is cut off: 10 bytes, but its header goes on to byte 1008"),
    "not JSON": (safetensors(b"hello {}"), "does not begin with {"),
    "an array": (safetensors([F32]), "does not begin with {"),
    "unclosed": (safetensors(b'{"a":' + json.dumps(F32).encode(), data=24), "goes on wrongly"),
    "unclosed name": (safetensors(b'{"a\\"' * 100), "has no tensor at byte 1"),
    "more behind the end": (safetensors(b"{}x"), "goes on behind its end"),
    "a comma too many": (safetensors(b'{"a":%s,}' % json.dumps(F32).encode(), data=24), "has no tensor at byte"),
    "tensor twice": (safetensors(b'{"a":%s,"\\u0061":%s}' % ((json.dumps(F32).encode(),) * 2)), "'a' is there twice"),
    "metadata twice": (safetensors(b'{"__metadata__":{},"__metadata__":{}}'), "'__metadata__' is there twice"),
    "metadata key twice": (safetensors(b'{"__metadata__":{"a":"","a":""}}'), "metadata .* is there twice"),
    "metadata not text": (safetensors({"__metadata__": {"a": 1}}), "does not hold pairs of strings"),
    "name is empty": (safetensors({"": F32}, data=24), "is not a name"),
    "name with a newline": (safetensors({"a\nb": F32}, data=24), "is not a name"),
    "name too long": (safetensors({"a" * 513: F32}, data=24), "is not a name"),
    "key twice in a tensor": (
        safetensors(b'{"a":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', data=4),
        "tensor a is not described by dtype, shape and data_offsets",
    ),
    "a key too many": (safetensors({"a": F32 | {"x": 1}}, data=24), "tensor a is not described"),
    "a key lacks": (safetensors({"a": {"dtype": "F32", "shape": []}}), "tensor a is not described"),
    "shape is text": (safetensors({"a": F32 | {"shape": "2"}}, data=24), "tensor a is not described"),
    "nested deep": (safetensors(b'{"a":{"shape":' + b"[" * 100_000), "ends within tensor a"),
    "an endless shape": (safetensors(b'{"a":{"shape":[' + b"1," * 10**6), "ends within tensor a"),
    "unknown type": (
        safetensors({"a": F32 | {"dtype": "Q4"}}, data=24),
        "tensor a has the unknown type 'Q4'; it needs",
    ),
    "negative shape": (safetensors({"a": described("I8", [-1, -4], 0, 4)}, data=4), "impossible shape"),
    "9 dimensions": (safetensors({"a": described("I8", [1] * 9, 0, 1)}, data=1), "impossible shape"),
    "elements overflow": (safetensors({"a": described("I8", [2**40, 2**40], 0, 0)}), "impossible shape"),
    "a number of 4000 digits": (
        safetensors(b'{"a":{"dtype":"I8","shape":[%s],"data_offsets":[0,0]}}' % (b"9" * 900)),
        "tensor a",
    ),
    "ends before it begins": (safetensors({"a": described("I8", [0], 4, 0)}, data=4), "impossible shape or place"),
    "size unlike shape": (
        safetensors({"a": described("F32", [2], 0, 4)}, data=4),
        "2 elements of 32 bits, but 4 bytes",
    ),
    "half a byte": (safetensors({"a": described("F4", [3], 0, 2)}, data=2), "3 elements of 4 bits, but 2 bytes"),
    "overlap": (safetensors({"a": F32, "b": described("F32", [1], 20, 24)}, data=24), "tensors a and b overlap"),
    "a hole": (safetensors({"a": F32, "b": described("I8", [1], 25, 26)}, data=26), "a hole before tensor b"),
    "data cut": (safetensors({"a": F32}, data=23), "is cut off: 23 bytes of data, but its tensors take 24"),
    "data too long": (safetensors({"a": F32}, data=25), "1 bytes behind its last tensor belong to none"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_refused(tmp_path: Path, case: str) -> None:
    """Each way of being damaged or hostile gets one sentence with the file's name."""
    content, sentence = BAD[case]
    with pytest.raises(ModelFormatError, match=sentence) as refusal:
        read(written(tmp_path, content), "m.safetensors")
    assert str(refusal.value).startswith("m.safetensors ")
    assert "\n" not in str(refusal.value)


SHARD = '"model-00001-of-00001.safetensors"'
BESIDE: dict[str, tuple[Callable[[Path, str], object], bytes, str]] = {
    "index: no map": (read_index, b"{}", "it has no weight_map"),
    "index: not JSON": (read_index, b'{"weight_map"', "it has no weight_map"),
    "index: nested deep": (read_index, b'{"a":' + b"[" * 10**6, "it has no weight_map"),
    "index: map is a list": (read_index, b'{"weight_map":[]}', "is not one list of tensors"),
    "index: map twice": (read_index, b'{"weight_map":{},"weight_map":{}}', "is not one list of tensors"),
    "index: empty": (read_index, b'{"weight_map":{}}', "it names no tensors"),
    "index: tensor twice": (read_index, f'{{"weight_map":{{"a":{SHARD},"a":{SHARD}}}}}'.encode(), "'a' is there twice"),
    "index: not text": (read_index, b'{"weight_map":{"a":1}}', "does not hold pairs of strings"),
    "index: leaves the folder": (
        read_index,
        b'{"weight_map":{"a":"../x.safetensors"}}',
        "'../x.safetensors' is not the pl",
    ),
    "index: absolute": (read_index, b'{"weight_map":{"a":"/etc/x.safetensors"}}', "is not the plain name"),
    "index: hidden": (read_index, b'{"weight_map":{"a":".x.safetensors"}}', "is not the plain name"),
    "index: a pickle": (read_index, b'{"weight_map":{"a":"model.bin"}}', "is not the plain name of a safetensors file"),
    "config: not JSON": (read_config, b"{", "it is not JSON"),
    "config: UTF-16": (read_config, '{"a": 1}'.encode("utf-16"), "it is not JSON"),
    "config: a list": (read_config, b"[]", "it holds no JSON object"),
    "config: nested deep": (read_config, b'{"a":' + b"[" * 10**5, "it nests more than 32 deep"),
    "config: key twice": (read_config, b'{"a": 1, "b": {"a": 1}, "a": 2}', "'a' is there twice"),
    "config: too long": (read_config, b" " * (1 << 20) + b"{}", "has 1048578 bytes, at most 1048576"),
    "config: a number of 5000 digits": (read_config, b'{"a": ' + b"9" * 5000 + b"}", "it is not JSON"),
    "config: no architecture": (read_config, b"{}", "does not say what architecture"),
    "config: no layers": (read_config, b'{"model_type": "llama"}', "says 0 layers"),
    "config: 10^9 layers": (
        read_config,
        json.dumps(CONFIG | {"num_hidden_layers": 10**9}).encode(),
        "says 1000000000 layers",
    ),
    "config: layers are text": (
        read_config,
        json.dumps(CONFIG | {"num_hidden_layers": "2"}).encode(),
        "num_hidden_layers is '2'",
    ),
    "tokenizer: not JSON": (template_of_tokenizer, b"{", "is damaged"),
    "tokenizer: template is a number": (template_of_tokenizer, b'{"chat_template": 1}', "is damaged"),
    "tokenizer: long template": (
        template_of_tokenizer,
        json.dumps({"chat_template": "x" * (1 << 19)}).encode(),
        "a chat template of 524288 characters, at most 262144",
    ),
    "template: brackets deep": (
        template_file,
        b"{{ " + b"(" * 65 + b"1" + b")" * 65 + b" }}",
        "nests more than 64 deep",
    ),
    "template: blocks deep": (template_file, b"{% if x %}" * 65 + b"{% endif %}" * 65, "nests more than 64 deep"),
    "template: loops deep": (template_file, b"{%- for x in y -%}" * 65, "nests more than 64 deep"),
}


@pytest.mark.parametrize("case", BESIDE)
def test_a_bad_file_beside_the_weights_is_refused(tmp_path: Path, case: str) -> None:
    """Indexes, configurations and templates are bounded like weights."""
    read_it, content, sentence = BESIDE[case]
    with pytest.raises(ModelFormatError, match=sentence) as refusal:
        read_it(written(tmp_path, content), "x.json")
    assert str(refusal.value).startswith("x.json ")


@pytest.mark.parametrize(
    "template",
    [
        "{% for m in messages %}{% if m.role == 'a' %}{{ '<|a|>' ~ m['content'] }}{% endif %}{% endfor %}" * 40,
        "{% set x = y if z else w %}" * 500,
        "{{ '((((' }}{{ \"}}{{{{'\" }}" * 100,
        "{# {% if %} #}((({[[[" * 30,
        '{{ {"a": {"b": [1, (2)]}}}}' * 100,
    ],
)
def test_ordinary_templates_pass(tmp_path: Path, template: str) -> None:
    """What is in a row, in strings, in comments or in text is no nesting."""
    assert template_file(written(tmp_path, template.encode()), "t") == template


def test_the_default_template_is_chosen(tmp_path: Path) -> None:
    """Of several named templates the one called default counts; without one there is none."""
    both = {"chat_template": [{"name": "rag", "template": "r"}, {"name": "default", "template": "d"}], "x": {"y": [1]}}
    assert template_of_tokenizer(written(tmp_path, json.dumps(both).encode()), "t") == "d"
    assert template_of_tokenizer(written(tmp_path, b"{}"), "t") is None


def test_an_index_is_read(tmp_path: Path) -> None:
    """Tensors and their files come back, wherever the map is in the file."""
    content = b'{"metadata":{"total_size":1,"x":[{}]},"weight_map" : {"a.w":"m-1.safetensors", "b":"m-2.safetensors"} }'
    assert read_index(written(tmp_path, content), "i") == {"a.w": "m-1.safetensors", "b": "m-2.safetensors"}


def test_numbered_files_without_an_index_must_be_complete() -> None:
    """The number in the names says which one lacks."""
    check_numbers(["a-00001-of-00002.safetensors", "a-00002-of-00002.safetensors", "b.safetensors"])
    with pytest.raises(ModelFormatError, match=r"a lacks part 1 of 2 \(a-00001-of-00002.safetensors\)"):
        check_numbers(["a-00002-of-00002.safetensors"])


HOSTILE: dict[str, tuple[Callable[[Path, str], object], Callable[[], bytes]]] = {
    "as many tensors as are read": (
        read,
        lambda: tensors(**{f"{'x' * 300}{number}": [1, 1] for number in range(1 << 16)}),
    ),
    "a header of spaces": (read, lambda: safetensors(b"{" + b" " * (32 << 20))),
    "a header of quotes": (read, lambda: safetensors(b'{"' + b'\\"' * (15 << 20))),
    "metadata of short pairs": (read, lambda: safetensors(b'{"__metadata__":{' + b'"a":"b",' * (4 << 20))),
    "an index of short pairs": (
        read_index,
        lambda: b'{"weight_map":{' + b'"a":"a.safetensors",' * (1 << 20) + b'"":""}}',
    ),
    "a configuration of empty objects": (read_config, lambda: b'{"a":[' + b'{"":{}},' * 110_000 + b"{}]}"),
    "a template of brackets": (template_file, lambda: b"{{" + b"()" * 131_000),
    "a template of quotes": (template_file, lambda: b"{{" + b"'\\'" * 87_000),
    "many templates": (template_of_tokenizer, lambda: b'{"chat_template":[' + b'{"template":""},' * 400_000 + b"{}]}"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_files_cost_little(tmp_path: Path, case: str) -> None:
    """At the bounds reading takes less than a second of CPU time and 100 MiB, whether the file is refused or not."""
    read_it, build = HOSTILE[case]
    path = written(tmp_path, build())
    for measured in ("time", "memory"):
        began = time.process_time()
        if measured == "memory":
            tracemalloc.start()
        with contextlib.suppress(ModelFormatError):
            read_it(path, "x")
        seconds = time.process_time() - began
        if measured == "time":
            assert seconds < 5, "five times the promise, for machines that are busy"
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100 << 20
