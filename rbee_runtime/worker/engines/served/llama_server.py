"""llama.cpp's own server: for adapters, speculation, embeddings and reranking, as its engine artefact has it."""

import os
import re
import shutil
from pathlib import Path
from typing import Any

from rbee_runtime.errors import EngineLoadError, ModelStoreError
from rbee_runtime.models import formats, gguf
from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import ChatRequest, ToolChoice, artefact, threads
from rbee_runtime.worker.engines.options import LlamaServerOptions, Task, read_llama_server
from rbee_runtime.worker.engines.schema_bounds import checked
from rbee_runtime.worker.engines.served import projectors
from rbee_runtime.worker.engines.served.dialects import Chat, Levels, Place, Start, Words, visible
from rbee_runtime.worker.engines.served.told_tools import in_words
from rbee_runtime.worker.engines.tool_forms import ToolForm, form_of

PROGRAM = "llama-server"
_NONE = "none"
_REASONS: tuple[tuple[re.Pattern[str], ExitReason], ...] = tuple(
    (re.compile(words, re.IGNORECASE), reason)
    for words, reason in (
        ("out of memory|failed to allocate|unable to allocate|ErrorOutOfDeviceMemory", ExitReason.OUT_OF_MEMORY),
        ("cannot open shared object|exec format error", ExitReason.ENGINE_MISSING),
        ("^error: |invalid argument|error while handling argument", ExitReason.BAD_CONFIG),
    )
)


class LlamaServer:
    """How llama-server is started and spoken to."""

    name = PROGRAM
    ready_path = "/health"
    unknown_reason = ExitReason.BAD_MODEL
    words = Words(top_k="top_k", min_p="min_p", repeat="repeat_penalty", grammar="grammar", goes_on=True)
    levels = Levels(busy="llamacpp:requests_processing", waiting="llamacpp:requests_deferred")

    def __init__(self, launch: WorkerLaunch) -> None:
        self._launch = launch
        self._options = read_llama_server(launch.worker.options, launch.worker.slots)
        self._form = ToolForm.HERMES
        self.sees = False

    @property
    def writes(self) -> bool:
        """Say whether it was started to write."""
        return self._options.task is Task.GENERATE

    def named(self, model: str) -> dict[str, Any]:
        """Return the name as clients have it, which the server was told."""
        return {"model": model}

    def start(self, place: Place) -> Start:
        """Return the program and its options."""
        spec, options = self._launch.worker, self._options
        self._form = form_of(_template(Path(self._launch.model_path)))
        _demand_whole(Path(self._launch.model_path), ExitReason.BAD_MODEL)
        for path in {options.lora, options.draft, options.projector} - {"", _NONE}:
            _demand_whole(Path(path), ExitReason.BAD_CONFIG)
        projector = self._projector()
        self.sees = projector is not None
        cpu = set(spec.devices) <= {"cpu"}
        layers = 0 if cpu and options.gpu_layers is None else options.gpu_layers
        words = [
            *(self._program(), "--model", self._launch.model_path, "--alias", spec.model),
            *("--host", str(place.socket), "--no-webui", "--metrics", "--no-slots"),
            # Each slot has its own context, as the spec says it.
            *("--ctx-size", str(spec.context * spec.slots), "--parallel", str(spec.slots), "--no-kv-unified"),
            *("--threads", str(options.threads or len(os.sched_getaffinity(0)))),
            *("--flash-attn", str(options.flash_attention)),
            *("--cache-type-k", options.kv_type, "--cache-type-v", options.kv_type),
            *("--jinja", "--reasoning-format", "auto", "--cache-ram", str(options.prompt_cache_mib)),
            *(("--batch-size", str(options.batch)) if options.batch and options.task is Task.GENERATE else ()),
            *(("--n-gpu-layers", str(layers)) if layers is not None else ()),
            *(("--tensor-split", options.tensor_split) if options.tensor_split else ()),
            *(("--mmproj", str(projector)) if projector is not None else ()),
            *_for_task(options, spec.context),
        ]
        # What hosts lack of libraries lies beside it.
        beside = {"LD_LIBRARY_PATH": self._launch.engine_dir} if self._launch.engine_dir else {}
        return Start(words, {**threads.waits(), **beside, **visible(spec.devices)})

    def progress(self, line: str) -> float | None:
        """Return nothing: its log does not say how far it is."""
        del line
        return None

    def reason(self, line: str) -> ExitReason | None:
        """Return why the load fails, if the line says so."""
        return next((reason for words, reason in _REASONS if words.search(line)), None)

    def chat(self, body: dict[str, Any], request: ChatRequest) -> Chat:
        """Return the body, refusing what the server would ignore.

        It ignores tools where the model's template knows none, and that a call is required with many that do.
        """
        tools = request.tools
        for schema in (request.schema, *(tool.parameters for tool in tools.tools if tools.offered)):
            if schema:
                checked(schema)
        if not tools.offered:
            return Chat(body)
        if self._form is ToolForm.PLAIN or tools.choice is ToolChoice.REQUIRED:
            return Chat(*in_words(body, request))
        return Chat(body)

    def text_tokens(self, text: str) -> tuple[str, dict[str, Any]]:
        """Return the question for a text's tokens, those of marks included, as of a prompt."""
        return "/tokenize", {"content": text, "add_special": True, "parse_special": True}

    def prompt_of(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the question for the text of a prompt."""
        names = ("messages", "tools", "tool_choice", "chat_template_kwargs")
        return "/apply-template", {name: body[name] for name in names if name in body}

    def _projector(self) -> Path | None:
        if self._options.task is not Task.GENERATE or self._options.projector == _NONE:
            return None
        given = self._options.projector
        return Path(given) if given else projectors.beside(Path(self._launch.model_path))

    def _program(self) -> str:
        directory = self._launch.engine_dir
        if not directory:
            found = shutil.which(PROGRAM)
            if found is None:
                raise artefact.missing(f"there is no {PROGRAM} on this host's PATH; give an engine by --engine-dir")
            return found
        held = artefact.read(Path(directory), PROGRAM)
        program = Path(directory) / (held.program or PROGRAM)
        if not os.access(program, os.X_OK):
            raise artefact.missing(f"engine directory {directory} has no program {held.program!r}; deploy again")
        return str(program)


def _template(path: Path) -> str:
    try:
        return formats.inspect([(path.name, path)]).chat_template or ""
    except ModelStoreError:
        # What it cannot read it says itself, and better.
        return ""


def _demand_whole(path: Path, reason: ExitReason) -> None:
    """Raise EngineLoadError unless a file is a whole GGUF: the server says of none what is wrong with it."""
    try:
        gguf.read(path)
    except ModelStoreError as error:
        raise EngineLoadError(str(error), reason=reason) from error


def _for_task(options: LlamaServerOptions, context: int) -> tuple[str, ...]:
    # A text that is embedded or ranked is computed in one piece.
    piece = str(max(options.batch, context))
    whole = ("--batch-size", piece, "--ubatch-size", piece)
    match options.task:
        case Task.EMBED:
            return (*whole, "--embedding", *(("--pooling", options.pooling) if options.pooling else ()))
        case Task.RERANK:
            return (*whole, "--reranking")
        case Task.GENERATE:
            return (
                *(("--lora", options.lora) if options.lora else ()),
                *(_drafted_by(Path(options.draft)) if options.draft else ()),
            )


def _drafted_by(path: Path) -> tuple[str, ...]:
    """Return the words for a draft: the server loads any but uses none unless it knows of which kind it is.

    It sees by itself what are heads of the model (their tensors or their own architecture), but no model beside it.
    """
    file = gguf.read(path)
    own = file.metadata.get("general.architecture") == "dflash" or any("nextn" in each.name for each in file.tensors)
    kind = "draft-eagle3" if file.metadata.get("general.architecture") == "eagle3" else "draft-simple"
    return ("--model-draft", str(path), *(() if own else ("--spec-type", kind)))


def dialect(launch: WorkerLaunch) -> LlamaServer:
    """Return the dialect of a launch; ConfigError where an option is wrong."""
    return LlamaServer(launch)
