"""The workers' network: looked at, made without a way out, and removed only if a hive made it."""

from collections.abc import Mapping
from typing import Any

from rbee_runtime.errors import GuardError
from rbee_runtime.guard import docker_words, podman_words, views
from rbee_runtime.guard.calls import ListUsers, LookAtNetwork, MakeNetwork, OfNetwork
from rbee_runtime.guard.config import EngineKind, GuardConfig
from rbee_runtime.guard.engine_socket import Answer, EngineSocket
from rbee_runtime.guard.questions import Questions
from rbee_runtime.guard.worker_network import MARK, Subnet


class Networks:
    """Does what a hive asks of the network under the settings' name; `subnet` are the addresses it was given last."""

    def __init__(self, config: GuardConfig, engine: EngineSocket, questions: Questions) -> None:
        self._config = config
        self._engine = engine
        self._questions = questions
        self.subnet: Subnet | None = None

    async def answer(self, call: OfNetwork) -> Answer:
        """Do what a call asks; GuardError."""
        if isinstance(call, MakeNetwork):
            return await self._make(call)
        found = await self._find(call.network if isinstance(call, ListUsers) else self._config.network)
        if isinstance(call, LookAtNetwork) and self._config.engine is EngineKind.DOCKER:
            return views.told([] if found is None else [views.of_network(found, EngineKind.DOCKER)])
        if found is None:
            raise GuardError(f"there is no network {self._config.network}", status=404)
        match call:
            case LookAtNetwork():
                return views.told(views.of_network(found, EngineKind.PODMAN))
            case ListUsers():
                return views.cut(await self._engine.ask(self._questions.users(views.id_of(found))), views.of_users)
            case _:
                return await self._remove(found)

    async def check(self) -> None:
        """Check that the network is there and is the one that the rules of this host are about; GuardError."""
        name, engine = self._config.network, self._config.engine
        found = await self._find(name)
        if found is None:
            raise GuardError(f"there is no network {name} for workers: have the hive make it first")
        words = docker_words if engine is EngineKind.DOCKER else podman_words
        if wrong := words.open_in(found, self._config):
            raise GuardError(
                f"network {name} is not one that keeps workers in ({', '.join(wrong)} not as wanted): remove it with "
                f"`{engine} network rm {name}`, and the next start of a worker makes it anew"
            )

    async def _make(self, call: MakeNetwork) -> Answer:
        """Make the network and keep in mind which addresses the engine chose for it."""
        answer = await self._engine.ask(self._questions.make_network(call.wanted))
        if answer.status < 300:
            self.subnet = _subnet_of(answer.document())
        return answer

    async def _remove(self, found: Mapping[str, Any]) -> Answer:
        labels = found.get("Labels" if self._config.engine is EngineKind.DOCKER else "labels")
        if MARK not in views.an_object(labels):
            raise GuardError(f"network {self._config.network} was made by no hive, and it is left alone")
        return await self._engine.ask(self._questions.remove_network(views.id_of(found)))

    async def _find(self, network: str) -> Mapping[str, Any] | None:
        """Return the workers' network by its name or whole id, None if there is none, GuardError for another one."""
        answer = await self._engine.ask(self._questions.network(network))
        if answer.status == 404:
            return None
        found = views.an_object(views.good(answer).document())
        name = found.get("Name", found.get("name"))
        if name != self._config.network or network not in {name, views.id_of(found)}:
            raise GuardError(f"{network} is not the workers' network: use {self._config.network}")
        return found


def _subnet_of(made: Any) -> Subnet | None:
    """Return the addresses that an engine chose for a network; Docker's answer has none."""
    subnets = views.a_list(views.an_object(made).get("subnets"))
    first = views.an_object(subnets[0]) if len(subnets) == 1 else {}
    subnet, gateway = first.get("subnet"), first.get("gateway")
    return Subnet(subnet, gateway) if isinstance(subnet, str) and isinstance(gateway, str) else None
