"""rotate: new certificates or a new first API key for a fleet that goes on serving."""

import argparse
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from rbee_deploy import advised, api_keys, queens, remembered, stages
from rbee_deploy.authority import FleetAuthority, issue_anew
from rbee_deploy.bundle import commands as bundle
from rbee_deploy.cli import documents, looking, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.operations import ask, keys, noting
from rbee_deploy.secrets import Secret
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage

_EXPORT_AGAIN = (
    "what was exported has the old ones: run rbee-deploy export with --secrets again, and apply what it writes"
)


def register(commands: Commands) -> None:
    """Add the command."""
    text = "replace all certificates, or the first API key; no request fails meanwhile"
    added = command(commands, "rotate", _rotate, text, limits=False)
    bundle.add_options(added)
    added.add_argument("what", choices=("certificates", "api-key"), help="which of the secrets")
    added.add_argument("--revoke-old", action="store_true", help="api-key: end the key before, once nobody uses it")


def _rotate(options: argparse.Namespace) -> int:
    if options.what == "certificates":
        if options.revoke_old:
            raise DeployError("--revoke-old goes with api-key; old certificates end by themselves")
        return _certificates(options)
    # The folder is made and its owner checked before a key is put there.
    FleetAuthority.open(options.site.secrets, options.site.name)
    return _revoke_old(options) if options.revoke_old else _api_key(options)


def _certificates(options: argparse.Namespace) -> int:
    site: Site = options.site
    # Another fleet's, or a damaged one, before any host is asked.
    authority = FleetAuthority.open(site.secrets, site.name)
    exported = bool(authority.exported())
    issued: dict[str, None] = {}
    if exported and not remembered.has_any(site):
        # It runs nowhere but where it was exported to, and no host of it is to be reached.
        issued.update(dict.fromkeys(issue_anew(authority, site)))
        # A note is all that is known of hosts, and the folder may be a copy from before there were any.
        elsewhere = f"hosts that were deployed after all get theirs by {advised.command('apply')}"
        return _told(options, issued, "are made", [_EXPORT_AGAIN, elsewhere], in_force=False)
    status = running.go(options, wanted=partial(_renewing, issued))
    if status and not issued:
        raise DeployError("no certificate was replaced; put right what is said above and run the same command again")
    lacking = [f"{advised.command('apply')} brings them to hosts that lack them"] if status else []
    again = [_EXPORT_AGAIN] if exported else []
    _told(options, issued, "are made" if status else "are in force", [*lacking, *again], in_force=not status)
    return status


def _told(
    options: argparse.Namespace, issued: Iterable[str], verdict: str, advice: Sequence[str], *, in_force: bool
) -> int:
    names = list(issued)
    documents.tell(
        options,
        "; ".join((f"{len(names)} new certificates {verdict}", *advice)),
        advice="; ".join(advice),
        certificates=names,
        in_force=in_force,
    )
    return 0


def _renewing(issued: dict[str, None], site: Site) -> tuple[Stage, ...]:
    """Return the stages of a deploy that replaces certificates once all that it needs is made and fits a host."""

    def renew(here: Here) -> None:
        issued.update(dict.fromkeys(here.workshop.renew_certificates()))

    first, *rest = stages.of(site)
    step = ("replace them", lambda here, name: noting.renewed(name=name, renew=partial(renew, here)))
    return (first, Stage("certificates", (step,), quiet=True), *rest)


def _api_key(options: argparse.Namespace) -> int:
    site: Site = options.site
    new = api_keys.begin(site.secrets)
    status = running.go(
        _at_the_queen(options), wanted=lambda asked: (_LOOK, *stages.of(asked), _key_stage("try it", new))
    )
    valid = _valid_keys()
    if status or not valid:
        raise DeployError(
            f"the queen does not take {site.secrets / api_keys.NEW} yet, and {api_keys.CURRENT} is as it was; "
            "put right what is said above and run the same command again"
        )
    api_keys.finish(site.secrets)
    new_file, old_file, old = site.secrets / api_keys.CURRENT, site.secrets / api_keys.OLD, api_keys.old(site.secrets)
    works = old is not None and api_keys.key_id(old) in valid
    end = f"rbee-deploy rotate api-key --revoke-old -i {options.inventory}"
    documents.tell(
        options,
        f"{new_file} is the new key",
        f"{old_file} works until {end}" if works else f"{old_file} is not valid at the queen; {end} deletes it",
        key_file=str(new_file),
        old_key_file=str(old_file),
        old_key_works=works,
    )
    return 0


def _revoke_old(options: argparse.Namespace) -> int:
    site: Site = options.site
    old = api_keys.old(site.secrets)
    if old is None:
        documents.tell(options, "there is no old key to revoke", revoked=False)
        return 0
    used = api_keys.current(site.secrets)
    if old != used:
        stage = _key_stage("revoke the old one", used, api_keys.key_id(old))
        if running.go(_at_the_queen(options), wanted=lambda asked: (*looking.look(asked), stage)) or not _valid_keys():
            return 1
    api_keys.forget_old(site.secrets)
    documents.tell(options, f"the old key is revoked, and {site.secrets / api_keys.OLD} is deleted", revoked=True)
    return 0


_LOOK = Stage(
    "look", (("read it", lambda here, name: ask.looked(name=name, accept=here.undeployed)),), quiet=True
)  # A new key is for a fleet that serves; the first one comes with its first deploy.


def _key_stage(step: str, key: Secret, ends: str = "") -> Stage:
    def call(here: Here, name: str) -> Any:
        return keys.ended(name=name, queen=lambda: queens.door(here, key), key_id=ends)

    return Stage("api key", ((step, call),), applies=lambda declared: declared.queen)


def _valid_keys() -> set[str]:
    """Return the ids of the keys that the queen takes, none where she did not answer."""
    return {key for here in running.hosts() for key in here.host.connector_data.get(ask.ANSWER, ())}


def _at_the_queen(options: argparse.Namespace) -> argparse.Namespace:
    return running.limited(options, options.site.queen.name)
