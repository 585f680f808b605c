"""The host at hand: its place in the inventory, what it is, and what it should have."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pyinfra.context import ctx_host

from rbee_deploy import accounts, drift, fallback, packages, preflight, questions, sources
from rbee_deploy import generation as generations
from rbee_deploy.accounts import Directory, Group, User
from rbee_deploy.activator.manifest import Generation
from rbee_deploy.artefacts import Artefact, Target
from rbee_deploy.authority import FleetAuthority
from rbee_deploy.errors import DeployError, UnfitRunError
from rbee_deploy.facts.memo import ASKED, PASSWORD, count_commands, last_known, observe
from rbee_deploy.fallback import PROBLEMS
from rbee_deploy.history import Past, Step
from rbee_deploy.inventory import Placement
from rbee_deploy.observed import Observed
from rbee_deploy.operations.images import Wanted
from rbee_deploy.operations.models import Seed
from rbee_deploy.operations.root import FETCHES, LEASE, REFUSALS, RUN, WARNINGS, WORKERS
from rbee_deploy.operations.workers import Door
from rbee_deploy.plan import HostPlan, Workshop, ahead, fetched, needs
from rbee_deploy.preflight.trust import NEW_AUTHORITY_DATA
from rbee_deploy.render import OwnedFile
from rbee_deploy.secrets import Secret, asked_for
from rbee_deploy.site import Host, Site
from rbee_runtime import ports
from rbee_runtime.protocol import ModelSpec

T = TypeVar("T")

ACTIVATION = "activate"
"""First word of the stages after which hosts run something else."""

HERE = "rbee_here"
"""Key of a host's Here."""

QUEEN_LINK = "rbee_queen_link"
EVERY = "rbee_every_model"
"""Key of whether all that is sure to run on the host is fetched ahead, and not only what the inventory says."""

_TURNS, _NETWORKS = "rbee_turns", "rbee_networks"


@dataclass(eq=False)
class Here:
    """One host during a run; its state is asked for when an operation runs. Only `falling_back` changes `declared`."""

    host: Any
    site: Site
    declared: Host
    workshop: Workshop

    @classmethod
    def of_context(cls) -> "Here":
        """Return the host that pyinfra prepares right now; what the operator has to put right stops the run."""
        host = ctx_host.get()
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
        asked = fallback.about(self.site, self.declared, self.workshop, password=password is not None)
        self.host.connector_data[ASKED] = asked
        count_commands(self.host)

    @property
    def facts(self) -> Observed:
        """Return what is known of the host now."""
        return observe(self.host)

    @property
    def known(self) -> Observed:
        """Return what was last read of the host, when the run is over."""
        return last_known(self.host)

    def problems(self, *, passing: bool = True) -> list[str]:
        """Return what forbids the deploy, judged once for each state that was read; without `passing` what may pass."""
        facts = self.facts
        read, known = self.host.connector_data.get(PROBLEMS, (None, []))
        if read is not facts:
            known = [problem for problem in self._checked() if problem.fatal]
            self.host.connector_data[PROBLEMS] = (facts, known)
        return [problem.sentence for problem in known if passing or not problem.passes]

    def rootless(self) -> list[str]:
        """Return why nothing can be done as root."""
        facts = preflight.HostFacts.parse(dict(self.facts.raw))
        return [problem.sentence for problem in preflight.root_problems(self.site, self.declared, facts)]

    def undeployed(self) -> list[str]:
        """Return why nothing can be asked of what was deployed: nothing can be done as root, or nothing was."""
        return self.rootless() or ([] if Past.of(self.facts.deploy).now else ["it was never deployed; run apply first"])

    def room(self) -> list[str]:
        """Return what forbids it once it is known what will be brought, and note what is only worth saying."""
        plan = self.fitting_plan()
        if plan is None:
            return []
        found = self._checked(needs(plan, self.facts))
        sooner = {spec.name for spec in self.ahead()}
        fetches = fetched(self.site, self.declared, self.facts, {*sooner, *(model.name for model, _ in plan.models)})
        self.host.connector_data[FETCHES] = fetches
        hints = [problem.sentence for problem in found if not problem.fatal]
        self.host.connector_data[WARNINGS] = [
            *fallback.said(self.host),
            *hints,
            *(f"its hive fetches {it}" for it in fetches),
        ]
        return [problem.sentence for problem in found if problem.fatal]

    def needs(self) -> tuple[packages.Need, ...]:
        """Return what the host needs from its distribution."""
        return fallback.needs(self.declared)

    def fits(self) -> bool:
        """Say whether nothing forbids the deploy; a dry run goes on to the end and asks this each time."""
        return not self.problems()

    def _checked(self, needed: preflight.Needs | None = None) -> tuple[preflight.Problem, ...]:
        facts = preflight.HostFacts.parse(dict(self.facts.raw))
        facts = replace(facts, queen_link=self._first_answer(facts.queen_link), networks=self._told(facts.networks))
        trust = self.workshop.trust()
        if self.host.data.get(NEW_AUTHORITY_DATA) is True:
            trust = replace(trust, authority="")
        return preflight.check(self.site, self.declared, facts, time.time(), needed, trust=trust)

    def _first_answer(self, now: str) -> str:
        """Return whether the host reached the queen when the run began: later she may be restarting."""
        data = self.host.connector_data
        first: str = data.setdefault(QUEEN_LINK, now)
        data[ASKED] = replace(data[ASKED], queen=None)
        return first

    def _told(self, networks: Mapping[str, str] | None) -> Mapping[str, str] | None:
        """Return what makes networks there; what it told before in this run, where it is too busy to tell again."""
        known: dict[str, str] = self.host.connector_data.setdefault(_NETWORKS, {})
        known.update(networks or {})
        return known or networks

    def plan(self) -> HostPlan:
        """Return what the host should have; it must fit."""
        raw = self.facts.raw
        return self.workshop.plan(
            self.declared,
            Target(python=packages.python_to_be(raw), arch=str(raw["arch"]), glibc=str(raw["glibc"])),
            podman=raw.get("programs", {}).get("podman"),
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

    def release_id(self) -> str:
        """Return the id of the release."""
        return self._of_plan(lambda plan: plan.release.id, "")

    def running_release(self) -> str:
        """Return the id of the release that queen and hive run: that of their image where they are in containers."""
        return self._of_plan(lambda plan: plan.inside or plan.release.id, "")

    def uv(self) -> Artefact | None:
        """Return the tool that installs it."""
        return self._of_plan(lambda plan: plan.uv, None)

    def engines(self) -> list[Artefact]:
        """Return the engine builds to install."""
        return self._of_plan(lambda plan: list(plan.engines), [])

    def engine_ids(self) -> list[str]:
        """Return the names of the engine builds."""
        return [engine.id for engine in self.engines()]

    def images(self) -> list[Wanted]:
        """Return the images to bring, with their files on this machine or where the host has them from."""
        mirrors = self.site.image_mirrors
        return self._of_plan(
            lambda plan: [Wanted(image, path, mirrors, plan.registry_auth) for image, path in plan.images], []
        )

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

    def ahead(self) -> list[ModelSpec]:
        """Return the models that the host is to fetch before its hive goes over."""
        every = bool(self.host.connector_data.get(EVERY))
        fits = self.declared.hive and self.fits()
        return ahead(self.site, self.declared, self.facts, every=every) if fits else []

    def files(self) -> list[OwnedFile]:
        """Return the files to place."""
        return self._of_plan(lambda plan: list(plan.files), [])

    def generation(self) -> Generation | None:
        """Return all of what the host should be."""
        return self._of_plan(self._generation, None)

    def _generation(self, plan: HostPlan) -> Generation:
        images = [image for image, _ in plan.images]
        return generations.generation(self.declared, plan.release.id, plan.files, images, plan.inside)

    def queens_generation(self) -> Generation | None:
        """Return it for the queen's host."""
        return self.generation() if self.declared.queen else None

    def generation_in_turn(self, turn: int) -> Generation | None:
        """Return it for a host whose turn it is."""
        return self.generation() if self.turn() == turn else None

    def turn(self) -> int | None:
        """Return the turn of a hive; one on which there is nothing to do has none, and nobody waits for it."""
        return self._turns().get(self.declared.name)

    def units(self) -> list[str]:
        """Return the units that are enabled."""
        return list(questions.units(self.declared))

    def elsewhere(self) -> tuple[str, ...]:
        """Return the units of roles that the host does not have, perhaps not any more."""
        return questions.elsewhere(self.declared)

    def wrong(self) -> list[str]:
        """Return what is still not as it should be; a dropped host has said why already."""
        found, users = self._differences(self.directories()), self.users()
        return [*found, *(phrase for user in users for phrase in drift.user_drift(user, self.facts))]

    def to_activate(self) -> list[str]:
        """Return what of that an activation puts right; directories and users are right before, by setup."""
        return self._differences([])

    def _differences(self, directories: list[Directory]) -> list[str]:
        wanted = self.generation()
        if wanted is None:
            return []
        owned = wanted.roles, self.files(), directories, wanted.enabled, wanted.unwanted
        link = str(ports.RELEASES / wanted.release)
        down = drift.down(self.facts, wanted.helpers)
        return [*down, *drift.found(self.facts, *owned, link=link, generation="" if down else wanted.id)]

    def damaged_or_wrong(self) -> list[str]:
        """Return all that is not as it should be, for which an activation alone may not do."""
        return [*drift.damaged(self.facts, self.release_id(), self.engine_ids()), *self.wrong()]

    def has_work(self) -> bool:
        """Say whether a deploy changes anything on the host."""
        plan = self.fitting_plan()
        return plan is not None and bool(self._lacks(plan) or self.wrong())

    def _lacks(self, plan: HostPlan) -> bool:
        """Say whether something is yet to be brought that an activation does not bring."""
        missing, facts = needs(plan, self.facts), self.facts
        bytes_missing = missing.release_bytes + missing.engine_bytes + missing.image_bytes + missing.model_bytes
        groups = [group for group in self.groups() if group.name not in facts.names("groups")]
        lacking = packages.missing(facts.raw, self.needs())
        return bool(bytes_missing or groups or lacking or self.ahead())

    def was_changed(self) -> bool:
        """Say whether this run was at work on the host."""
        return self.host.connector_data.get(LEASE) is not None

    def left(self) -> list[str]:
        """Return what a person has to put right."""
        if problems := self.problems():
            # Whoever is refused says why and gets no further, so this was found later, and nothing was done since.
            return problems if self.host.state.is_executing else []
        owned = [file.path for file in self.files()]
        return [*drift.foreign(self.facts, self.elsewhere(), owned), *self._unsettled()]

    def _unsettled(self) -> list[str]:
        """Return that workers do not come up where no host can go back: nothing was there before the run."""
        problem = self.workers_problem()
        # Hosts that were taken back have failed by now, and said so.
        if not problem or not self.declared.queen or self.host.state.failed_hosts:
            return []
        return [f"workers do not run what this deploy brought: {problem}; rbee-keeper workers shows when they do"]

    def gate(self) -> str:
        """Return why no further host may be touched, "" if it may: what failed on one is not spread to others."""
        state = self.host.state
        failed = next((item for item in state.failed_hosts if _failed_to_activate(state, item)), None)
        if failed is None:
            return ""
        name = failed.data.get("rbee").host.name
        what = f"the queen on {name}" if name == self.site.queen.name else name
        return f"{what} could not go over to it; put that right and run the same command again"

    def queens_door(self) -> Door | None:
        """Return how the queen is asked on this host, None on others."""
        if not self.declared.queen or not self.fits():
            return None
        key, _ = FleetAuthority.open(self.site.secrets, self.site.name).first_api_key()
        tls = self.site.client_endpoint != "plain-http"
        return Door(self.release_id(), self.declared.queen_port, tls, key, self.site.rollout.workers_seconds)

    def releases(self) -> Mapping[str, str]:
        """Return the release of every hive that this run changed, by name."""
        changed = [item.connector_data.get(HERE) for item in self.host.state.active_hosts]
        mine = [here for here in changed if isinstance(here, Here) and here.declared.hive and here.was_changed()]
        # One that preflight refuses by now has none, and nobody would see the end of waiting for that.
        return {here.declared.name: release for here in mine if (release := here.running_release())}

    def workers_problem(self) -> str:
        """Return why workers do not come up on what this run brought, "" if they do or nobody waited."""
        problem: str = self.host.state.__dict__.get(WORKERS, "")
        return problem

    def way_back(self) -> Step | None:
        """Return where the host goes because the run failed elsewhere; None if it stays."""
        failed = self.workers_problem() or (self.site.rollout.undo == "run" and self.gate())
        run = self.host.state.__dict__.get(RUN)
        return Past.of(self.facts.deploy).before_run(run) if failed and run else None

    def why_back(self) -> str:
        """Return why, as a sentence for the report."""
        return self.workers_problem() or self.gate()

    def _turns(self) -> Mapping[str, int]:
        """Return the turn of every hive that has one, settled when the first asks."""
        state = self.host.state
        if not state.is_executing:
            return self._assigned([item for item in state.inventory if state.is_host_in_limit(item)])
        if _TURNS not in state.__dict__:
            working = [item for item in state.inventory if item.connector_data.get(LEASE) is not None]
            state.__dict__[_TURNS] = self._assigned([item for item in working if item not in state.failed_hosts])
        turns: Mapping[str, int] = state.__dict__[_TURNS]
        return turns

    def _assigned(self, hosts: Iterable[Any]) -> Mapping[str, int]:
        names = {item.data.get("rbee").host.name for item in hosts}
        followers = (item.name for item in self.site.hosts if not item.queen)
        return self.site.rollout.assign([name for name in followers if name in names])


def _failed_to_activate(state: Any, item: Any) -> bool:
    """Say whether a host failed while it went over to something else, and not because it had to wait for another."""
    if item.connector_data.get(REFUSALS):
        return False
    done = ((op_hash, data.operation_meta) for op_hash, data in state.ops[item].items())
    return any(
        meta.is_complete() and meta.did_error() and next(iter(state.op_meta[op_hash].names)).startswith(ACTIVATION)
        for op_hash, meta in done
    )


def _workshop(state: Any, site: Site) -> Workshop:
    """Return the run's one workshop; hosts of one inventory share one Site object."""
    shops: dict[int, Workshop] = state.__dict__.setdefault("rbee_workshops", {})
    return shops.setdefault(id(site), Workshop(site, sources.chosen()))
