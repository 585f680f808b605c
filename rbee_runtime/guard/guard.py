"""The guard of one hive: who answers which call."""

import contextlib
from collections.abc import AsyncGenerator, Callable
from typing import Any

from rbee_runtime.guard import calls, views
from rbee_runtime.guard.accounts import Account
from rbee_runtime.guard.config import GuardConfig
from rbee_runtime.guard.containers import Containers
from rbee_runtime.guard.engine_socket import Answer, EngineSocket, OpenAnswer, Question
from rbee_runtime.guard.networks import Networks
from rbee_runtime.guard.questions import Questions
from rbee_runtime.guard.table import Context

View = Callable[[Any], Any]


class Guard:
    """Answers the calls of one hive."""

    def __init__(self, config: GuardConfig, account: Account) -> None:
        self._config = config
        self._engine = EngineSocket(config)
        self._questions = Questions(config, account)
        self._networks = Networks(config, self._engine, self._questions)
        self._containers = Containers(config, account, self._engine, self._networks)

    @property
    def context(self) -> Context:
        """Return what the next call is read against."""
        return Context(self._config, self._networks.subnet)

    async def answer(self, call: calls.OfEngine | calls.OfNetwork | calls.OfContainer) -> Answer:
        """Do what a call asks and return the hive's answer; GuardError."""
        if isinstance(call, calls.OfNetwork):
            return await self._networks.answer(call)
        if isinstance(call, calls.OfContainer):
            return await self._containers.answer(call)
        question, view = self._of_engine(call)
        return views.cut(await self._engine.ask(question), view)

    @contextlib.asynccontextmanager
    async def log(self, call: calls.ReadLog) -> AsyncGenerator[OpenAnswer, None]:
        """Give the log of an own container as it is written; GuardError."""
        async with self._containers.log(call) as opened:
            yield opened

    async def sweep(self) -> None:
        """Remove what workers without a container were handed; GuardError while the engine is away."""
        await self._containers.sweep()

    def _of_engine(self, call: calls.OfEngine) -> tuple[Question, View | None]:
        questions, engine = self._questions, self._config.engine
        match call:
            case calls.Ping():
                return questions.ping(), None
            case calls.Version():
                return questions.version(), views.of_version
            case calls.Info():
                return questions.info(), lambda found: views.of_info(found, engine)
            case calls.HasImage():
                return questions.image(call.image), lambda _: {}
            case calls.ListOwn():
                return questions.own_containers(), lambda found: views.of_own(found, self._config)
