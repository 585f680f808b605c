"""How llama-server and vLLM are started: the words of their commands, and what their logs mean."""

import json
import sys
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from rbee_runtime.devices.reading import Reading
from rbee_runtime.errors import ConfigError, EngineLoadError, RequestError
from rbee_runtime.models import estimate
from rbee_runtime.protocol import DeviceReport, WorkerLaunch, WorkerSpec
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import (
    ChatRequest,
    Delta,
    Finish,
    Message,
    Tool,
    ToolChoice,
    Tools,
    Usage,
    create,
    options,
    threads,
)
from rbee_runtime.worker.engines.served import asking, command, llama_server, shares, told_tools, vllm
from rbee_runtime.worker.engines.served.dialects import Place
from rbee_runtime.worker.engines.tool_forms import ToolForm
from tests.unit.models.gguf_builder import STRING, entry, gguf, tensor
from tests.unit.models.safetensors_builder import CONFIG, folder, tensors

PLACE = Place(Path("/run/x"), 4321, "key")
GPUS = ("GPU-1", "GPU-2")


def write_model(root: Path) -> Path:
    """Write a model's folder."""
    folder(root, {"config.json": CONFIG, "model.safetensors": tensors(**{"model.embed_tokens.weight": (4, 8)})})
    return root


def model_file(root: Path) -> Path:
    """Write a model's file."""
    path = root / "m.gguf"
    path.write_bytes(gguf())
    return path


def launch(place: Path, engine: str, model: Path, *, devices: tuple[str, ...] = (), **given: Any) -> WorkerLaunch:
    """Return a launch by an artefact folder of this engine."""
    about = {"name": engine, "version": "0.32.0", "program": sys.executable}
    (place / "engine.json").write_text(json.dumps(about))
    spec = WorkerSpec(id="w-000001", model="m", engine=engine, context=512, slots=4, devices=devices, options=given)
    return WorkerLaunch(worker=spec, host="127.0.0.1", port=0, token="t", model_path=str(model), engine_dir=str(place))


def after(words: list[str], word: str) -> str:
    """Return the word after this one."""
    return words[words.index(word) + 1]


def test_llama_server_is_told_all_that_the_spec_says(tmp_path: Path) -> None:
    """Each slot has the context of the spec, the socket is ours, and only its devices are visible."""
    lora = tmp_path / "a.gguf"
    lora.write_bytes(gguf())
    wanted = launch(
        tmp_path, "llama-server", model_file(tmp_path), devices=GPUS, threads=3, kv_type="q8_0", lora=str(lora)
    )
    start = llama_server.dialect(wanted).start(PLACE)
    assert start.environment["LD_LIBRARY_PATH"] == str(tmp_path), "hosts lack a library that lies beside the program"
    words = list(start.command)
    assert [
        after(words, word) for word in ("--ctx-size", "--parallel", "--host", "--alias", "--threads", "--lora")
    ] == [*("2048", "4", "/run/x/engine.sock", "m", "3", str(lora))]
    assert start.environment["CUDA_VISIBLE_DEVICES"] == "GPU-1,GPU-2"
    assert start.environment["GOMP_SPINCOUNT"] == threads.SPINS
    assert "--n-gpu-layers" not in words


@pytest.mark.parametrize("name", ["OMP_WAIT_POLICY", "GOMP_SPINCOUNT"])
def test_how_threads_wait_is_the_operator_s_to_say(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A unit that sets either is not overruled."""
    assert threads.waits() == {"GOMP_SPINCOUNT": threads.SPINS}
    monkeypatch.setenv(name, "x")
    assert threads.waits() == {}


@pytest.mark.parametrize(
    ("task", "word"), [("embed", "--embedding"), ("rerank", "--reranking"), ("generate", "--model-draft")]
)
def test_llama_server_is_started_for_a_task(tmp_path: Path, task: str, word: str) -> None:
    """Embeddings and reranking are a server's whole life, drafts a generating one's."""
    draft = tmp_path / "d.gguf"
    draft.write_bytes(gguf())
    given: dict[str, Any] = {"task": task, **({"draft": str(draft)} if task == "generate" else {})}
    assert (
        word
        in llama_server.dialect(launch(tmp_path, "llama-server", model_file(tmp_path), **given)).start(PLACE).command
    )


@pytest.mark.parametrize(
    ("architecture", "name", "kind"),
    [
        ("llama", "output.weight", "draft-simple"),
        ("eagle3", "output.weight", "draft-eagle3"),
        ("dflash", "output.weight", None),
        ("qwen3", "blk.3.nextn.eh_proj.weight", None),
    ],
)
def test_a_draft_is_said_to_be_of_its_kind(tmp_path: Path, architecture: str, name: str, kind: str | None) -> None:
    """llama-server sees by itself what is a head of the model; any other draft it would load and never use."""
    draft = tmp_path / "d.gguf"
    draft.write_bytes(gguf([entry("general.architecture", STRING, architecture)], [tensor(name)]))
    start = llama_server.dialect(launch(tmp_path, "llama-server", model_file(tmp_path), draft=str(draft))).start(PLACE)
    assert (after([*start.command], "--spec-type") if "--spec-type" in start.command else None) == kind


def test_vllm_gets_the_memory_that_was_asked_for(tmp_path: Path) -> None:
    """On a processor the cache to the byte, and no share of a card that it has not."""
    model = write_model(tmp_path / "model")
    start = vllm.dialect(launch(tmp_path, "vllm", model / "model.safetensors")).start(PLACE)
    words = list(start.command)
    facts = vllm._facts(model)
    assert facts is not None
    need = estimate.memory(facts, context=512, slots=4, engine="vllm", accelerated=False)
    kept = int(after(words, "--kv-cache-memory-bytes"))
    assert need.kv < kept <= need.kv * 1.5 + 1
    assert "--gpu-memory-utilization" not in words
    assert words[1:5] == ["-P", "-m", "vllm.entrypoints.cli.main", "serve"]
    assert [after(words, word) for word in ("serve", "--uds", "--max-model-len", "--max-num-seqs")] == [
        *(str(model), "/run/x/engine.sock", "512", "4")
    ]
    assert "--enforce-eager" in words
    assert start.environment["VLLM_HOST_IP"] == "127.0.0.1"
    assert start.environment["GLOO_SOCKET_IFNAME"] == "lo", "else it listens where the host's name leads"
    assert start.environment["TORCHDYNAMO_DISABLE"] == "1", "no host has to have a compiler"


class Cards:
    """Two GPUs, the second one half full."""

    kind = "nvidia"

    def read(self, workers: object) -> Reading:
        """Return them."""
        del workers
        cards = [
            DeviceReport(id=id_, kind="nvidia", name="x", total=24 << 30, used=used)
            for id_, used in (("GPU-1", 0), ("GPU-2", 12 << 30), ("GPU-3", 24 << 30))
        ]
        return Reading(tuple(cards))


def test_a_share_is_of_the_card_and_is_free_there(tmp_path: Path) -> None:
    """What is needed, in thousandths of a card; EngineLoadError where a card has less free."""
    facts = vllm._facts(write_model(tmp_path / "model"))
    assert facts is not None
    need = estimate.memory(facts, context=512, slots=4, engine="vllm", devices=2)
    share = shares.share_of(need, GPUS, Cards())
    assert share is not None
    assert need.total <= share * (24 << 30) < need.total + (24 << 30) / 500
    with pytest.raises(EngineLoadError, match="are free") as error:
        shares.share_of(need, ("GPU-3",), Cards())
    assert error.value.reason == ExitReason.OUT_OF_MEMORY
    assert shares.share_of(need, ("0000:03:00.0",), Cards()) is None


def test_vllm_below_the_floor_is_not_started(tmp_path: Path) -> None:
    """A version with known holes is an engine that is missing, with the version to install."""
    wanted = launch(tmp_path, "vllm", write_model(tmp_path / "model"))
    (tmp_path / "engine.json").write_text(json.dumps({"name": "vllm", "version": "0.31.9", "program": "python3"}))
    with pytest.raises(EngineLoadError, match=r"vLLM 0\.31\.9 has known holes; this worker runs 0\.32\.0") as error:
        vllm.dialect(wanted).start(PLACE)
    assert error.value.reason == ExitReason.ENGINE_MISSING


def test_tools_are_told_in_words_where_the_template_has_no_place(tmp_path: Path) -> None:
    """VLLM shows a model no tools that its chat template does not ask for."""
    dialect = vllm.dialect(launch(tmp_path, "vllm", tmp_path))
    request = ChatRequest((Message("user", "hi"),), tools=Tools((Tool("now"),)))
    body = asking.chat_body("m", request, dialect.words)
    assert dialect.chat(body, request).body == body
    dialect._form = ToolForm.PLAIN
    assert '"now"' in dialect.chat(body, request).body["messages"][0]["content"]
    assert dialect.chat(body, ChatRequest(request.messages)).body == body


@pytest.mark.parametrize(
    ("line", "share"),
    [
        ("(APIServer pid=1) INFO Resolved architecture: LlamaForCausalLM", 0.05),
        ("Loading safetensors checkpoint shards:  50% Completed | 1/2", 0.4),
        ("INFO CPU KV cache size: 46,592 tokens", 0.8),
        ("nothing of note", None),
    ],
)
def test_phases_are_read_from_the_log(tmp_path: Path, line: str, share: float | None) -> None:
    """How far vLLM is, by its own lines."""
    found = vllm.dialect(launch(tmp_path, "vllm", tmp_path)).progress(line)
    assert found == (pytest.approx(share) if share is not None else None)


@pytest.mark.parametrize(
    ("engine", "line", "reason"),
    [
        ("vllm", "ValueError: No available memory for the cache blocks.", ExitReason.OUT_OF_MEMORY),
        ("vllm", "torch.OutOfMemoryError: CUDA out of memory", ExitReason.OUT_OF_MEMORY),
        ("vllm", "ModuleNotFoundError: No module named 'vllm'", ExitReason.ENGINE_MISSING),
        ("vllm", "RuntimeError: Failed to infer device type", ExitReason.DEVICE_LOST),
        ("vllm", "vllm serve: error: unrecognized arguments: --x", ExitReason.BAD_CONFIG),
        ("vllm", "ValueError: Model architectures ['X'] are not supported", ExitReason.BAD_MODEL),
        ("llama-server", "ggml_backend_cuda_buffer_type_alloc_buffer: failed to allocate", ExitReason.OUT_OF_MEMORY),
        ("llama-server", "error: invalid argument: --x", ExitReason.BAD_CONFIG),
        (
            "llama-server",
            "x: error while loading shared libraries: libgomp.so.1: cannot open shared object file",
            ExitReason.ENGINE_MISSING,
        ),
        ("llama-server", "error loading model: unknown architecture", ExitReason.BAD_MODEL),
    ],
)
def test_the_log_says_why_a_load_failed(tmp_path: Path, engine: str, line: str, reason: ExitReason) -> None:
    """The hive starts one anew after want of memory, and not after a model that cannot be served."""
    dialects: dict[str, Any] = {"vllm": vllm.dialect, "llama-server": llama_server.dialect}
    dialect = dialects[engine](launch(tmp_path, engine, tmp_path))
    assert (dialect.reason(line) or dialect.unknown_reason) == reason
    assert dialect.reason("INFO nothing of note") is None


@pytest.mark.parametrize(
    ("engine", "given", "said"),
    [
        ("vllm", {"egaer": True}, "there is no 'egaer'; did you mean 'eager'; known: eager, kv_type"),
        ("vllm", {"tool_parser": "x; rm"}, "tool_parser is 'x; rm'"),
        ("vllm", {"quantization": "--trust-remote-code"}, "quantization is '--trust-remote-code'"),
        ("vllm", {"quantization": "awq\n"}, "quantization is 'awq\\n'"),
        ("llama-server", {"tensor_split": "abc"}, "tensor_split is 'abc': write the devices' shares like 3,1"),
        ("llama-server", {"kv_type": "q8_0", "flash_attention": "off"}, "kv_type q8_0 needs flash attention"),
        ("vllm", {"task": "sing"}, "task is 'sing'; it is one of generate, embed, rerank"),
        ("llama-server", {"lora": "relative.gguf"}, "lora is 'relative.gguf'"),
        ("some-server", {"any": 1}, "there is no 'any'; known: none"),
    ],
)
def test_a_wrong_option_is_one_sentence(tmp_path: Path, engine: str, given: dict[str, Any], said: str) -> None:
    """For whoever writes the inventory and for the worker alike."""
    with pytest.raises(ConfigError) as error:
        create(launch(tmp_path, engine, tmp_path, **given))
    assert said in str(error.value)
    with pytest.raises(ConfigError) as early:
        options.check(engine, "file:/m.gguf", given)
    assert str(early.value) == str(error.value)


def test_tokens_of_a_server_that_counts_none_are_refused(tmp_path: Path) -> None:
    """OpenAI has no such route."""
    with pytest.raises(RequestError, match="engine some-server has no way to count tokens"):
        command.dialect(launch(tmp_path, "some-server", tmp_path)).text_tokens("x")


def tools_of(choice: ToolChoice = ToolChoice.AUTO, **fields: Any) -> ChatRequest:
    """Return a chat with two tools."""
    return ChatRequest((Message("user", "hi"),), tools=Tools((Tool("now"), Tool("then")), choice, **fields))


@pytest.mark.parametrize(
    ("form", "choice", "native"),
    [
        (ToolForm.HERMES, ToolChoice.AUTO, True),
        (ToolForm.HERMES, ToolChoice.REQUIRED, False),
        (ToolForm.PLAIN, ToolChoice.AUTO, False),
    ],
)
def test_llama_server_has_tools_where_it_serves_them(
    tmp_path: Path, form: ToolForm, choice: ToolChoice, native: bool
) -> None:
    """Its own way with tools is used where its template has one and nothing is required."""
    dialect = llama_server.dialect(launch(tmp_path, "llama-server", tmp_path))
    dialect._form = form
    request = tools_of(choice)
    chat = dialect.chat(asking.chat_body("m", request, dialect.words), request)
    assert ("tools" in chat.body, chat.reader is None) == (native, native)


async def test_llama_server_is_told_of_tools_in_words_where_it_ignores_them(tmp_path: Path) -> None:
    """A required call is a schema, whose answer is read as a call; one that was cut is text."""
    dialect = llama_server.dialect(launch(tmp_path, "llama-server", tmp_path))
    dialect._form = ToolForm.PLAIN
    request = tools_of(ToolChoice.REQUIRED)
    chat = dialect.chat(asking.chat_body("m", request, dialect.words), request)
    assert not {"tools", "tool_choice"} & chat.body.keys()
    assert chat.body["response_format"]["type"] == "json_schema"
    assert chat.reader is not None

    async def sent() -> AsyncGenerator[Delta, None]:
        yield Delta('{"name": "now", ')
        yield Delta('{"name": "th', choice=1)
        yield Delta('"arguments": {"a": 1}}')
        yield Delta(finish=Finish.STOP)
        yield Delta(finish=Finish.LENGTH, usage=Usage(1, 2), choice=1)

    first, second = [delta async for delta in chat.reader(sent())]
    assert [(call.name, call.arguments) for call in first.calls] == [("now", '{"a": 1}')]
    assert (first.finish, first.text) == (Finish.TOOL_CALLS, "")
    assert told_tools._call("[1]") is told_tools._call("{}") is told_tools._call("[" * 100_000) is None
    assert second == Delta('{"name": "th', choice=1, finish=Finish.LENGTH, usage=Usage(1, 2))


@pytest.mark.parametrize("where", ["schema", "tool"])
def test_llama_server_is_not_asked_for_what_it_ignores(tmp_path: Path, where: str) -> None:
    """A keyword that no grammar holds is refused, in a schema and in a tool's parameters."""
    dialect = llama_server.dialect(launch(tmp_path, "llama-server", tmp_path))
    odd = '{"type":"object","minProperties":2}'
    request = (
        ChatRequest((Message("user", "hi"),), schema=odd)
        if where == "schema"
        else ChatRequest((Message("user", "hi"),), tools=Tools((Tool("now", "", odd),)))
    )
    with pytest.raises(RequestError, match="'minProperties' cannot be held to"):
        dialect.chat(asking.chat_body("m", request, dialect.words), request)


@pytest.mark.parametrize("option", ["lora", "draft", "projector"])
def test_a_file_beside_the_model_is_read_before_the_server_reads_it(tmp_path: Path, option: str) -> None:
    """What is no whole GGUF is a wrong option, with the file's name."""
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"GGUF\xff")
    given: dict[str, Any] = {option: str(bad)}
    dialect = llama_server.dialect(launch(tmp_path, "llama-server", model_file(tmp_path), **given))
    with pytest.raises(EngineLoadError, match=str(bad)) as error:
        dialect.start(PLACE)
    assert error.value.reason == ExitReason.BAD_CONFIG


@pytest.mark.parametrize(
    "schema",
    [
        {"$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}, "allOf": [{"$ref": "#/$defs/a"}]},
        {"$defs": {"a": {"anyOf": [{"type": "null"}, {"$ref": "#/$defs/a"}]}}, "$ref": "#/$defs/a"},
        {"$ref": "#"},
    ],
)
def test_a_schema_that_is_defined_by_itself_never_reaches_the_server(tmp_path: Path, schema: Any) -> None:
    """llama.cpp follows such a circle until its process ends."""
    dialect = llama_server.dialect(launch(tmp_path, "llama-server", tmp_path))
    request = ChatRequest((Message("user", "hi"),), schema=json.dumps(schema))
    with pytest.raises(RequestError, match="defined by itself alone"):
        dialect.chat(asking.chat_body("m", request, dialect.words), request)


def test_a_schema_of_a_tree_is_taken(tmp_path: Path) -> None:
    """What refers to itself below a property or an item has an end."""
    tree = {"type": "object", "properties": {"children": {"type": "array", "items": {"$ref": "#"}}}}
    dialect = llama_server.dialect(launch(tmp_path, "llama-server", tmp_path))
    request = ChatRequest((Message("user", "hi"),), schema=json.dumps(tree))
    assert dialect.chat(asking.chat_body("m", request, dialect.words), request).body["response_format"]


@pytest.mark.parametrize("content", [None, b"junk"])
def test_a_model_that_is_none_is_one_sentence(tmp_path: Path, content: bytes | None) -> None:
    """llama-server says of a file only that it cannot be loaded; vLLM of a folder that is not there nothing at all."""
    path = tmp_path / "none.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(EngineLoadError, match=str(path)) as error:
        llama_server.dialect(launch(tmp_path, "llama-server", path)).start(PLACE)
    assert error.value.reason == ExitReason.BAD_MODEL
    with pytest.raises(EngineLoadError, match="there is no model in /nowhere"):
        vllm.dialect(launch(tmp_path, "vllm", Path("/nowhere/model.safetensors"))).start(PLACE)
