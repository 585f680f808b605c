"""Any server of OpenAI's API, as the `engine.json` in its engine's folder describes it.

    {"name": "sglang", "version": "0.5.1",
     "command": ["/opt/sglang/bin/python", "-m", "sglang.launch_server", "--model-path", "{model}",
                 "--served-model-name", "{name}", "--host", "127.0.0.1", "--port", "{port}", "--api-key", "{key}"],
     "ready": "/health", "environment": {"SGLANG_X": "1"}, "model": ""}

`{model}` is the model's file or folder, `{folder}` the folder, `{name}` what requests call it, `{socket}` a path to
listen on or `{port}` a port of loopback, `{key}` what the front shows there, `{context}` and `{slots}` those of the
spec, `{engine}` the engine's folder. `model` is what the server itself calls its model, where it takes no name. What
is run comes from this file alone, which root puts there: no request and no model's options can change it.
"""

import os
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbee_runtime.errors import RequestError
from rbee_runtime.protocol import WorkerLaunch
from rbee_runtime.states import ExitReason
from rbee_runtime.worker.engines import ChatRequest, artefact
from rbee_runtime.worker.engines.options import NoOptions, read
from rbee_runtime.worker.engines.served.dialects import Chat, Levels, Place, Start, Words, visible

_PLACEHOLDER = re.compile(r"\{([a-z_]+)\}")
_NO_MEMORY = re.compile(r"out of memory", re.IGNORECASE)


class Command:
    """How a server is started that nothing more is known of."""

    words = Words()
    levels = Levels()
    writes = sees = True
    unknown_reason = ExitReason.CRASHED

    def __init__(self, launch: WorkerLaunch) -> None:
        self._launch = launch
        self.name = launch.worker.engine
        self.ready_path = "/health"
        self._model = ""
        read(self.name, NoOptions, launch.worker.options)

    def named(self, model: str) -> dict[str, Any]:
        """Return the name that its engine.json gives, else the one that clients have."""
        return {"model": self._model or model}

    def start(self, place: Place) -> Start:
        """Return the command with everything put in; EngineLoadError where the folder has none that can be run."""
        spec, folder = self._launch.worker, Path(self._launch.engine_dir)
        held = artefact.read(folder, self.name)
        self.ready_path, self._model = held.ready, held.model
        if not held.command:
            raise artefact.missing(f"engine.json in {folder} has no command; deploy again")
        path = Path(self._launch.model_path)
        values = {
            "model": str(path),
            "folder": str(path if path.is_dir() else path.parent),
            "name": spec.model,
            "socket": str(place.socket),
            "port": str(place.port),
            "key": place.key,
            "context": str(spec.context),
            "slots": str(spec.slots),
            "engine": str(folder),
        }
        words = [_filled(word, values, folder) for word in held.command]
        if shutil.which(words[0]) is None and not os.access(words[0], os.X_OK):
            raise artefact.missing(f"the program {words[0]} of engine {self.name} is not on this host; install it")
        on_port = any("{port}" in word for word in held.command)
        environment = {name: _filled(value, values, folder) for name, value in held.environment.items()}
        return Start(words, {**environment, **visible(spec.devices)}, on_port=on_port)

    def progress(self, line: str) -> float | None:
        """Return nothing: what its log means is not known."""
        del line
        return None

    def reason(self, line: str) -> ExitReason | None:
        """Return want of memory, which all servers name alike."""
        return ExitReason.OUT_OF_MEMORY if _NO_MEMORY.search(line) else None

    def chat(self, body: dict[str, Any], request: ChatRequest) -> Chat:
        """Return the body, under the name that the server has for its model."""
        del request
        return Chat(body | self.named(body["model"]))

    def text_tokens(self, text: str) -> tuple[str, dict[str, Any]]:
        """Refuse: OpenAI has no route for it."""
        del text
        raise RequestError(400, f"engine {self.name} has no way to count tokens", code="unsupported_parameter")

    def prompt_of(self, body: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Refuse, as above."""
        del body
        return self.text_tokens("")


def _filled(word: str, values: Mapping[str, str], folder: Path) -> str:
    def value(found: re.Match[str]) -> str:
        if found[1] not in values:
            known = ", ".join(f"{{{name}}}" for name in values)
            raise artefact.missing(f"engine.json in {folder} asks for {found[0]}; known are {known}")
        return values[found[1]]

    return _PLACEHOLDER.sub(value, word)


def dialect(launch: WorkerLaunch) -> Command:
    """Return the dialect of a launch; ConfigError where an option is wrong."""
    return Command(launch)
