"""One model and its context in llama.cpp: load, tokenise, decode one sequence.

Not safe for use from two threads, except `tokens_of`, which only reads the vocabulary.
"""

import ctypes
import os
import re
import sys
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from rbee_runtime.errors import EngineCrashedError, EngineLoadError
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import Progress

BATCH = 512
"""Tokens per prefill step; llama.cpp's default micro-batch."""

_WARN, _ERROR = 3, 4
"""ggml.h's levels; the binding's comments show an older numbering."""

_ABORTED = 2
_NO_MEMORY = re.compile(r"out of memory|(cannot|failed to|unable to) alloc|alloc\w* failed|bad_alloc", re.IGNORECASE)


_CALLBACKS: list[Any] = []
"""llama.cpp keeps a pointer to the log callback for the life of the process."""


class Abort:
    r"""A flag that llama.cpp reads between the nodes of a graph, so that a step of seconds ends within milliseconds.

    The callback is libc's strlen over two bytes, "\x01\0" or "\0\0": a Python callback would take the interpreter
    lock thousands of times per token.
    """

    def __init__(self) -> None:
        self._flag = ctypes.create_string_buffer(2)
        self.function = ctypes.cast(ctypes.CDLL(None).strlen, ctypes.c_void_p)
        self.data = ctypes.addressof(self._flag)

    def set(self, value: bool) -> None:
        """Ask for the running step to end, or allow the next one."""
        self._flag[0] = b"\x01" if value else b"\x00"

    @property
    def is_set(self) -> bool:
        """Say whether an end was asked for."""
        return self._flag[0] == b"\x01"


class NativeLog:
    """Takes llama.cpp's log: warnings and errors go on to stderr, the last ones explain a failed load.

    What it says about a step that we ended ourselves is no error and is dropped.
    """

    def __init__(self, library: ModuleType, abort: Abort) -> None:
        self._abort = abort
        self._errors: deque[str] = deque(maxlen=20)
        callback = library.llama_log_callback(self._take)
        _CALLBACKS.append(callback)
        library.llama_log_set(callback, ctypes.c_void_p(0))

    def _take(self, level: int, text: bytes, _: Any) -> None:
        line = text.decode("utf-8", "replace").strip()
        if level in (_WARN, _ERROR) and line and not self._abort.is_set:
            if level == _ERROR:
                self._errors.append(line)
            sys.stderr.write(f"llama.cpp: {line}\n")

    def failure(self, what: str) -> EngineLoadError:
        """Return the error for a failed step of loading, its reason guessed from what llama.cpp said."""
        lack = next((line for line in self._errors if _NO_MEMORY.search(line)), None)
        if lack is not None:
            hint = "give the host more memory, or the model a smaller context"
            return EngineLoadError(f"{what}: {lack}; {hint}", reason=ExitReason.OUT_OF_MEMORY)
        # The first error is the cause, the later ones are its consequences.
        said = self._errors[0] if self._errors else "it gave no reason"
        return EngineLoadError(f"{what}: {said}", reason=ExitReason.BAD_MODEL)


class NativeModel:
    """A loaded model with one sequence in its context; `held` is the tokens whose state the context holds."""

    def __init__(self, library: ModuleType, model: Any, context: Any, abort: Abort) -> None:
        self.library = library
        self.model = model
        self.context = context
        self.abort = abort
        self.vocab = library.llama_model_get_vocab(model)
        self.held: list[int] = []
        self._piece = ctypes.create_string_buffer(512)
        self._bos: str | None = None

    @property
    def size(self) -> int:
        """Return how many tokens the context holds at most."""
        return int(self.library.llama_n_ctx(self.context))

    @property
    def template(self) -> str | None:
        """Return the chat template of the model file."""
        source = self.library.llama_model_chat_template(self.model, None)
        return source.decode("utf-8", "replace") if source is not None else None

    @property
    def bos(self) -> str:
        """Return the text of the token that begins a sequence ("" if the vocabulary has none)."""
        if self._bos is None:
            self._bos = self._text_of(self.library.llama_vocab_bos(self.vocab))
        return self._bos

    @property
    def eos(self) -> str:
        """Return the text of the token that ends a sequence ("" if the vocabulary has none)."""
        return self._text_of(self.library.llama_vocab_eos(self.vocab))

    def tokens_of(self, text: str) -> list[int]:
        """Return a rendered prompt as tokens, with the beginning-of-sequence token once."""
        raw = text.encode("utf-8", "replace")
        add_special = not (self.bos and text.startswith(self.bos))
        room = len(raw) + 8
        buffer = (self.library.llama_token * room)()
        count = self.library.llama_tokenize(self.vocab, raw, len(raw), buffer, room, add_special, True)
        if count < 0:
            raise EngineCrashedError(f"llama.cpp needs {-count} tokens for {len(raw)} bytes of text")
        return list(buffer[:count])

    def piece_of(self, token: int) -> bytes:
        """Return the bytes of a token; control tokens have none."""
        count = self.library.llama_token_to_piece(self.vocab, token, self._piece, len(self._piece), 0, False)
        if count < 0:
            self._piece = ctypes.create_string_buffer(-count)
            return self.piece_of(token)
        return self._piece.raw[:count]

    def ends(self, token: int) -> bool:
        """Say whether a token ends the answer."""
        return bool(self.library.llama_vocab_is_eog(self.vocab, token))

    def keep_prefix_of(self, tokens: Sequence[int]) -> int:
        """Drop from the context what differs from `tokens` and return how many tokens are kept."""
        # The last token is always decoded anew: its logits are what the first sample needs.
        limit = min(len(self.held), len(tokens) - 1)
        kept = next((i for i in range(limit) if self.held[i] != tokens[i]), limit)
        memory = self.library.llama_get_memory(self.context)
        if not self.library.llama_memory_seq_rm(memory, 0, kept, -1):
            self.library.llama_memory_clear(memory, True)
            kept = 0
        del self.held[kept:]
        return kept

    def decode(self, tokens: Sequence[int]) -> bool:
        """Run at most BATCH further tokens; False if aborted, EngineCrashedError if llama.cpp cannot go on."""
        buffer = (self.library.llama_token * len(tokens))(*tokens)
        status = self.library.llama_decode(self.context, self.library.llama_batch_get_one(buffer, len(tokens)))
        if status == _ABORTED:
            return False
        if status != 0:
            raise EngineCrashedError(f"llama.cpp stopped at token {len(self.held)} with status {status}")
        self.held.extend(tokens)
        return True

    def close(self) -> None:
        """Free context and model."""
        self.library.llama_free(self.context)
        self.library.llama_model_free(self.model)

    def _text_of(self, token: int) -> str:
        if token < 0:
            return ""
        text: bytes = self.library.llama_vocab_get_text(self.vocab, token)
        return text.decode("utf-8", "replace")


def load(path: Path, *, context: int, gpu_layers: int, threads: int, progress: Progress, abort: Abort) -> NativeModel:
    """Return the model at `path` with room for `context` tokens, or raise EngineLoadError."""
    library = _library()
    log = NativeLog(library, abort)
    library.llama_backend_init()
    report = library.llama_progress_callback(lambda share, _: _report(progress, share, abort))
    options = library.llama_model_default_params()
    options.n_gpu_layers = gpu_layers
    options.progress_callback = report
    model = library.llama_model_load_from_file(os.fsencode(path), options)
    if model is None:
        raise log.failure(f"llama.cpp cannot load {path}")
    handle = library.llama_init_from_model(model, _context_options(library, model, context, threads, abort))
    if handle is None:
        library.llama_model_free(model)
        raise log.failure(f"llama.cpp cannot make a context of {context} tokens for {path}")
    return NativeModel(library, model, handle, abort)


def _report(progress: Progress, share: float, abort: Abort) -> bool:
    progress(share)
    return not abort.is_set


def _context_options(library: ModuleType, model: Any, context: int, threads: int, abort: Abort) -> Any:
    options = library.llama_context_default_params()
    trained: int = library.llama_model_n_ctx_train(model)
    # Beyond what it was trained for a model answers nonsense without any error.
    options.n_ctx = min(context, trained) if trained > 0 else context
    options.n_batch = options.n_ubatch = BATCH
    options.n_seq_max = 1
    options.n_threads = options.n_threads_batch = threads
    options.abort_callback = ctypes.cast(abort.function, library.ggml_abort_callback)
    options.abort_callback_data = abort.data
    return options


def _library() -> ModuleType:
    # Threads that spin while they wait for each other make an answer many times slower as soon as anything else wants
    # a core; libgomp reads this once, when it is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    try:
        import llama_cpp  # noqa: PLC0415 - lives in an engine artefact that is on the path only in a worker
    except (ImportError, OSError, RuntimeError) as error:
        raise EngineLoadError(
            f"llama-cpp-python cannot be loaded: {error}; give --engine-dir, or run the deploy again to stage it",
            reason=ExitReason.ENGINE_MISSING,
        ) from error
    return cast("ModuleType", llama_cpp)
