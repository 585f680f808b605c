"""The host at hand: its place in the inventory, what it is, and what it should have."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, TypeVar

from pyinfra import host as current_host

from rbee_deploy import accounts, drift, preflight, sources
from rbee_deploy.accounts import Directory, Group, User
from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.drift import Role
from rbee_deploy.errors import DeployError, UnfitRunError
from rbee_deploy.facts.memo import ASKED, PASSWORD, count_commands, observe
from rbee_deploy.facts.state import Asked
from rbee_deploy.inventory import Placement
from rbee_deploy.modes import role_units, units_elsewhere
from rbee_deploy.observed import Observed
from rbee_deploy.operations.models import Seed
from rbee_deploy.operations.root import FETCHES, WARNINGS
from rbee_deploy.plan import HostPlan, Workshop, fetched, needs
from rbee_deploy.render import OwnedFile, roles, unwanted_paths
from rbee_deploy.secrets import Secret, asked_for
from rbee_deploy.site import Host, Site
from rbee_runtime import ports

T = TypeVar("T")

START_QUEEN = "activate queen: start it"


@dataclass(frozen=True)
class Here:
    """One host during a run; what depends on the host's state is asked for when an operation runs."""

    host: Any
    site: Site
    declared: Host
    workshop: Workshop

    @classmethod
    def of_context(cls) -> "Here":
        """Return the host that pyinfra prepares right now; what the operator has to put right stops the run."""
        host = current_host.get() if hasattr(current_host, "get") else current_host
        placed = host.data.get("rbee")
        if not isinstance(placed, Placement):
            raise UnfitRunError(
                f"host {host.name} is not declared by rbee_deploy.inventory.fleet(); deploy with a fleet's inventory"
            )
        here = cls(host, placed.site, placed.host, _workshop(host.state, placed.site))
        try:
            here._introduce()
        except DeployError as error:
            raise UnfitRunError(str(error)) from error
        return here

    def _introduce(self) -> None:
        source = self.declared.sudo_password
        with asked_for(f"host {self.declared.name!r}: sudo_password"):
            password: Secret | None = source.read() if source is not None else None
        self.host.connector_data[PASSWORD] = password
        self.host.connector_data[ASKED] = self.asked(password=password is not None)
        count_commands(self.host)

    def asked(self, *, password: bool) -> Asked:
        """Return what the host is asked about."""
        directories = tuple(item.path for item in accounts.directories(self.declared))
        users = accounts.users(self.declared)
        optional = {name for user in users for name in (*user.groups, *user.groups_if_present)}
        return Asked(
            paths=(*self.workshop.paths(self.declared), *_parents(self.declared.models_dir), *directories),
            units=(*self.units(), *self.elsewhere(), f"{ports.WORKER_TEMPLATE.removesuffix('.service')}*.service"),
            users=tuple(user.name for user in users),
            groups=tuple(sorted({*optional, *(group.name for group in accounts.groups(self.declared))})),
            models_dir=self.declared.models_dir,
            password=password,
        )

    @property
    def facts(self) -> Observed:
        """Return what is known of the host now."""
        return observe(self.host)

    def problems(self) -> list[str]:
        """Return what forbids the deploy."""
        return [_sentence(problem) for problem in self._checked() if problem.fatal]

    def room(self) -> list[str]:
        """Return what forbids it once it is known what will be brought, and note what is only worth saying."""
        plan = self.fitting_plan()
        if plan is None:
            return []
        found = self._checked(needs(plan, self.facts))
        fetches = fetched(self.site, self.declared, self.facts, {model.name for model, _ in plan.models})
        self.host.connector_data[FETCHES] = fetches
        hints = [_sentence(problem) for problem in found if not problem.fatal]
        self.host.connector_data[WARNINGS] = [*hints, *(f"its hive fetches {what}" for what in fetches)]
        return [_sentence(problem) for problem in found if problem.fatal]

    def fits(self) -> bool:
        """Say whether nothing forbids the deploy; a dry run goes on to the end and asks this each time."""
        return not self.problems()

    def _checked(self, needed: preflight.Needs | None = None) -> tuple[preflight.Problem, ...]:
        facts = preflight.HostFacts.parse(dict(self.facts.raw))
        return preflight.check(self.site, self.declared, facts, time.time(), needed)

    def plan(self) -> HostPlan:
        """Return what the host should have; it must fit."""
        raw = self.facts.raw
        return self.workshop.plan(
            self.declared, Target(python=str(raw["python"]), arch=str(raw["arch"]), glibc=str(raw["glibc"]))
        )

    def fitting_plan(self) -> HostPlan | None:
        """Return the plan, or None for a host that preflight refuses."""
        return self.plan() if self.fits() else None

    def _of_plan(self, part: Callable[[HostPlan], T], otherwise: T) -> T:
        plan = self.fitting_plan()
        return otherwise if plan is None else part(plan)

    def groups(self) -> list[Group]:
        """Return the groups to make."""
        return list(accounts.groups(self.declared)) if self.fits() else []

    def users(self) -> list[User]:
        """Return the users to make."""
        return list(accounts.users(self.declared)) if self.fits() else []

    def directories(self) -> list[Directory]:
        """Return the directories to make."""
        return list(accounts.directories(self.declared)) if self.fits() else []

    def release(self) -> Artefact | None:
        """Return the release to install."""
        return self._of_plan(lambda plan: plan.release, None)

    def release_id(self, role: str) -> str:
        """Return the release that `current` points to when a role is activated, "" for a role played elsewhere."""
        return self._of_plan(lambda plan: plan.release.id, "") if role in roles(self.declared) else ""

    def uv(self) -> Artefact | None:
        """Return the tool that installs it."""
        return self._of_plan(lambda plan: plan.uv, None)

    def engines(self) -> list[Artefact]:
        """Return the engine builds to install."""
        return self._of_plan(lambda plan: list(plan.engines), [])

    def seeds(self) -> list[Seed]:
        """Return the model files to bring."""
        return self._of_plan(self._seeds, [])

    def _seeds(self, plan: HostPlan) -> list[Seed]:
        whole = self.workshop.preseeded()
        return [
            Seed(
                model.name,
                plan.contents[file.sha256],
                file.name,
                file.sha256,
                file.size,
                self.declared.models_dir,
                whole[model.name],
            )
            for model, file in plan.models
        ]

    def files(self) -> list[OwnedFile]:
        """Return the files to place."""
        return self._of_plan(lambda plan: list(plan.files), [])

    def unwanted(self) -> list[str]:
        """Return the files to remove, which an earlier inventory wanted."""
        return self._of_plan(lambda plan: list(unwanted_paths(plan.files)), [])

    def units(self) -> list[str]:
        """Return the units that are enabled."""
        return list(dict.fromkeys(unit for role in roles(self.declared) for unit in role_units(role).enabled))

    def elsewhere(self) -> tuple[str, ...]:
        """Return the units of roles that the host does not have, perhaps not any more."""
        return units_elsewhere(roles(self.declared))

    def fitting_units(self) -> list[str]:
        """Return the units to enable."""
        return self.units() if self.fits() else []

    def target(self) -> list[str]:
        """Return the unit that stands for all of ours."""
        return [ports.TARGET_UNIT] if self.fits() else []

    def role(self, name: str) -> Role | None:
        """Return a role as it should run, None for one that is played elsewhere."""
        if name not in roles(self.declared):
            return None
        return self._of_plan(lambda plan: drift.role(name, self.declared, plan.digest(name), plan.release.id), None)

    def wrong(self) -> list[str]:
        """Return what is still not as it should be; a dropped host has said why already."""
        if not self.fits():
            return []
        wanted = [role for role in (self.role(name) for name in roles(self.declared)) if role is not None]
        return drift.found(self.facts, wanted, self.files(), self.directories(), self.fitting_units(), self.unwanted())

    def left(self) -> list[str]:
        """Return what a person has to put right."""
        return drift.foreign(self.facts, self.elsewhere()) if self.fits() else []

    def queen_failed(self) -> str:
        """Return why hives must wait, "" if they need not: a release that fails on the queen is not spread."""
        name, state = self.site.queen.name, self.host.state
        queen = next((item for item in state.failed_hosts if item.data.get("rbee").host.name == name), None)
        for op_hash, data in (state.ops[queen] if queen is not None else {}).items():
            meta = data.operation_meta
            if START_QUEEN in state.op_meta[op_hash].names and meta.is_complete() and meta.did_error():
                return f"the queen on {name} did not start; put that right and run the same command again"
        return ""


def _parents(path: str) -> tuple[str, ...]:
    return tuple(str(parent) for parent in PurePosixPath(path).parents[:-1])


def _sentence(problem: preflight.Problem) -> str:
    return f"{problem.cause}; {problem.fix}"


def _workshop(state: Any, site: Site) -> Workshop:
    """Return the run's one workshop; hosts of one inventory share one Site object."""
    shops: dict[int, Workshop] = state.__dict__.setdefault("rbee_workshops", {})
    return shops.setdefault(id(site), Workshop(site, sources.chosen()))
