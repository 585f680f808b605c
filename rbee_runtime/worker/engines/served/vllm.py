"""vLLM's own server: what memory it may take is computed from the context and slots that were asked for."""

import importlib.util
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from rbee_runtime.errors import EngineLoadError, ModelStoreError, RequestError
from rbee_runtime.models import estimate, formats, needs
from rbee_runtime.models.facts import ModelFacts
from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import ChatRequest, ToolChoice, artefact
from rbee_runtime.worker.engines.options import Task, VllmOptions, read
from rbee_runtime.worker.engines.served import asking
from rbee_runtime.worker.engines.served.dialects import Chat, Levels, Place, Start, Words, visible
from rbee_runtime.worker.engines.served.shares import share_of
from rbee_runtime.worker.engines.thoughts import END, THINKS
from rbee_runtime.worker.engines.tool_forms import ToolForm, form_of, told

NAME = "vllm"
FLOOR = (0, 32, 0)
"""Before it a chat template could hold the server (CVE-2026-115911)."""

MODULE = "vllm.entrypoints.cli.main"
PARSERS = {
    ToolForm.HERMES: "hermes",
    ToolForm.PLAIN: "hermes",
    ToolForm.MISTRAL: "mistral",
    ToolForm.MISTRAL_ARGS: "mistral",
    ToolForm.LLAMA3: "llama3_json",
}
"""Its names of the ways in which models call tools."""

_PHASES: tuple[tuple[re.Pattern[str], float], ...] = tuple(
    (re.compile(words), share)
    for words, share in (
        ("Resolved architecture", 0.05),
        ("Initializing a V1 LLM engine", 0.1),
        ("Starting to load model", 0.2),
        ("Loading weights took", 0.6),
        (r"torch\.compile took|Dynamo bytecode transform", 0.7),
        ("KV cache size", 0.8),
        ("Graph capturing finished", 0.9),
        ("init engine", 0.95),
    )
)
_SHARDS = re.compile(r"checkpoint shards:\s+(\d+)% Completed")
_SHARDS_FROM, _SHARDS_PART = 0.2, 0.4
_REASONS: tuple[tuple[re.Pattern[str], ExitReason], ...] = tuple(
    (re.compile(words, re.IGNORECASE), reason)
    for words, reason in (
        ("out of memory|available memory for the cache|free memory on device|kv cache is needed|not enough memory",
         ExitReason.OUT_OF_MEMORY),
        ("no module named|cannot open shared object", ExitReason.ENGINE_MISSING),
        ("no cuda-capable device|cuda driver|nvml|device type", ExitReason.DEVICE_LOST),
        ("unrecognized arguments|invalid choice|error: argument", ExitReason.BAD_CONFIG),
    )
)  # fmt: skip


_THOUGHTS = (
    ("<|channel|>", "openai_gptoss"),
    ("[THINK]", "mistral"),
    (THINKS, "qwen3"),
    (END, "deepseek_r1"),
)
"""Marks of chat templates and vLLM's names of who reads the thoughts of such models; the first that is there counts."""


_BY_TOKENS = frozenset({"qwen3", "deepseek_r1"})
_MARKED = re.compile(rb'"content"\s*:\s*"</think>"')
_TOKENIZERS, _LARGEST_TOKENIZER = ("tokenizer_config.json", "tokenizer.json"), 256 << 20


def _thoughts_of(template: str, folder: Path) -> str:
    """Return vLLM's name for the model's family, "" for none: its readers fail where a mark is no token of its own."""
    found = next((parser for mark, parser in _THOUGHTS if mark in template), "")
    return found if found not in _BY_TOKENS or _marks_are_tokens(folder) else ""


def _marks_are_tokens(folder: Path) -> bool:
    files = [path for name in _TOKENIZERS if (path := folder / name).is_file()]
    return any(_MARKED.search(path.read_bytes()) for path in files if path.stat().st_size <= _LARGEST_TOKENIZER)


class Vllm:
    """How vLLM is started and spoken to."""

    name = "vLLM"
    ready_path = "/health"
    unknown_reason = ExitReason.BAD_MODEL
    words = Words(top_k="top_k", min_p="min_p", repeat="repetition_penalty", goes_on=True)
    sees = True
    levels = Levels(
        busy="vllm:num_requests_running",
        waiting="vllm:num_requests_waiting",
        held_share="vllm:kv_cache_usage_perc",
        cells="vllm:cache_config_info[kv_cache_size_tokens]",
    )

    def __init__(self, launch: WorkerLaunch) -> None:
        self._launch = launch
        self._options = read(NAME, VllmOptions, launch.worker.options)
        self._form = ToolForm.HERMES
        self._template = self._thoughts = ""
        path = Path(launch.model_path)
        self._folder = path if path.is_dir() else path.parent

    @property
    def writes(self) -> bool:
        """Say whether it was started to write."""
        return self._options.task is Task.GENERATE

    def named(self, model: str) -> dict[str, Any]:
        """Return the name as clients have it, which the server was told."""
        return {"model": model}

    def start(self, place: Place) -> Start:
        """Return the program and its options; EngineLoadError where there is none, or no memory for the model."""
        spec, options = self._launch.worker, self._options
        program, environment = self._program()
        facts = _facts(self._folder)
        self._template = (facts.chat_template or "") if facts is not None else ""
        self._form = form_of(self._template) if facts is not None else ToolForm.HERMES
        accelerated = not set(spec.devices) <= {"cpu"}
        eager = options.eager if options.eager is not None else not accelerated
        words = [
            *(*program, "serve", str(self._folder), "--served-model-name", spec.model, "--uds", str(place.socket)),
            *("--max-model-len", str(spec.context), "--max-num-seqs", str(spec.slots)),
            *("--dtype", options.dtype, "--kv-cache-dtype", options.kv_type, "--enable-prompt-tokens-details"),
            # Small models write spaces without end where a schema lets them.
            *("--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}'),
            *((f"--quantization={options.quantization}",) if options.quantization else ()),
            *(("--enforce-eager",) if eager else ()),
            *(("--tensor-parallel-size", str(len(spec.devices))) if accelerated else ()),
            *self._for_task(),
            *(self._memory(facts, accelerated=accelerated) if facts is not None else ()),
        ]
        # All that its processes say to each other stays on this machine.
        own = {"VLLM_HOST_IP": "127.0.0.1", "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
        own |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_DO_NOT_TRACK": "1"}
        if not accelerated:
            # It would tie itself to one of two processors, whoever else is on that.
            own["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
        if eager and not accelerated:
            # Or some of its functions, such as that for log probabilities, ask for a C++ compiler at the first use.
            own["TORCHDYNAMO_DISABLE"] = "1"
        return Start(words, {**environment, **own, **visible(spec.devices), "HOME": str(place.folder)})

    def progress(self, line: str) -> float | None:
        """Return how far the load is by a line of the log."""
        if shards := _SHARDS.search(line):
            return _SHARDS_FROM + _SHARDS_PART * int(shards[1]) / 100
        return next((share for words, share in _PHASES if words.search(line)), None)

    def reason(self, line: str) -> ExitReason | None:
        """Return why the load fails, if the line says so: the cause is logged long before the end."""
        return next((reason for words, reason in _REASONS if words.search(line)), None)

    def chat(self, body: dict[str, Any], request: ChatRequest) -> Chat:
        """Return the body, with the tools told in words where the model's template has no place for them.

        Of a call that is required the arguments are held to their schema; by itself vLLM does so on demand only.
        Its readers of thoughts would take the rest of an answer for more of them.
        """
        if request.continues and self._thoughts:
            field = "continue_final_message"
            message = f"{field}: a model that thinks does not go on with an answer on this engine"
            raise RequestError(400, message, code="unsupported_parameter", param=field)
        tools = request.tools
        if not tools.offered:
            return Chat(body)
        own: dict[str, Any] = {}
        if tools.choice is ToolChoice.REQUIRED:
            own["tools"] = [{**tool, "function": {**tool["function"], "strict": True}} for tool in body["tools"]]
        if self._form is ToolForm.PLAIN:
            own["messages"] = asking.messages_of(told(request.messages, tools.tools))
        return Chat(body | own)

    def text_tokens(self, text: str) -> tuple[str, dict[str, Any]]:
        """Return the question for a text's tokens."""
        return "/tokenize", {"model": self._launch.worker.model, "prompt": text}

    def prompt_of(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return the question for the tokens of a prompt."""
        names = ("model", "messages", "tools", "chat_template_kwargs")
        return "/tokenize", {name: body[name] for name in names if name in body}

    def _for_task(self) -> tuple[str, ...]:
        if self._options.task is not Task.GENERATE:
            return ("--runner", "pooling")
        words = ("--enable-auto-tool-choice", "--tool-call-parser", self._options.tool_parser or PARSERS[self._form])
        thoughts = self._options.reasoning_parser or _thoughts_of(self._template, self._folder)
        self._thoughts = thoughts if thoughts != "none" else ""
        return (*words, "--reasoning-parser", self._thoughts) if self._thoughts else words

    def _program(self) -> tuple[tuple[str, ...], dict[str, str]]:
        directory = self._launch.engine_dir
        if not directory:
            if importlib.util.find_spec(NAME) is None:
                raise artefact.missing("vLLM is not installed beside this worker; give an engine by --engine-dir")
            _demand(metadata.version(NAME))
            return (sys.executable, "-P", "-m", MODULE), {}
        held = artefact.read(Path(directory), NAME)
        _demand(held.version)
        if held.program:
            return (str(Path(directory) / held.program), "-P", "-m", MODULE), {}
        packages = str(artefact.packages(Path(directory), held))
        # What hosts lack of libraries lies beside the packages.
        return (sys.executable, "-P", "-m", MODULE), {"PYTHONPATH": packages, "LD_LIBRARY_PATH": directory}

    def _memory(self, facts: ModelFacts, *, accelerated: bool) -> tuple[str, ...]:
        """Return its share of memory: the cache to the byte, for it would otherwise fill what is free."""
        spec = self._launch.worker
        need = estimate.memory(
            facts,
            context=spec.context,
            slots=spec.slots,
            settings=needs.settings_of(spec.options, facts, engine=NAME),
            engine=NAME,
            accelerated=accelerated,
            devices=max(1, len(spec.devices)),
        )
        # A block of tokens that it keeps for itself, per slot; blocks have up to 128 tokens.
        kept = need.kv + -(-need.kv * estimate.CELLS // max(need.context, 1))
        limit = ("--kv-cache-memory-bytes", str(kept))
        if not accelerated:
            return limit
        share = share_of(need, spec.devices)
        return limit if share is None else (*limit, "--gpu-memory-utilization", str(share))


def _facts(folder: Path) -> ModelFacts | None:
    if not folder.is_dir():
        raise EngineLoadError(f"there is no model in {folder}: vLLM serves a folder with config.json and safetensors")
    files = [(path.name, path) for path in sorted(folder.iterdir()) if path.is_file()]
    try:
        return formats.inspect(files)
    except ModelStoreError:
        # What it cannot read it says itself, and better.
        return None


def _demand(version: str) -> None:
    found = tuple(int(part) for part in re.findall(r"\d+", version)[:3])
    if found < FLOOR:
        floor = ".".join(map(str, FLOOR))
        raise artefact.missing(f"vLLM {version} has known holes; this worker runs {floor} or later, install that")


def dialect(launch: WorkerLaunch) -> Vllm:
    """Return the dialect of a launch; ConfigError where an option is wrong."""
    return Vllm(launch)
