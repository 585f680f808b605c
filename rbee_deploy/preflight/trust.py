"""Whether the host trusts this operator's authority, so that a deploy does not put another one over a whole fleet."""

from collections.abc import Iterator

from rbee_deploy.preflight.checks import Case, Check, Finding
from rbee_runtime import ports

CA = str(ports.CREDENTIALS / "ca.pem")
NEW_AUTHORITY = "--new-authority"
"""The option that lets a deploy replace the authority of hosts."""


def _authority_is_the_same(case: Case) -> Iterator[Finding]:
    facts, ours = case.facts, case.authority
    there = str(facts.paths.get(CA, {}).get("sha256", ""))
    if not ours or there in {"", ours}:
        return
    # What the activator keeps, a deploy brought. Anything else is a change by hand, which the next deploy puts right
    # if one before it brought our authority.
    if there in facts.contents or ours not in facts.contents:
        secrets = case.site.secrets
        yield Finding(
            f"it was deployed with another authority than the one in {secrets}",
            f"have secrets_dir name the folder of secrets that it was deployed from, or copy that to {secrets}; if it "
            f"is lost, rbee-deploy apply {NEW_AUTHORITY} replaces the authority and every certificate",
        )


AUTHORITY = Check(
    id="authority",
    title="The host trusts this operator's authority",
    looks_at=f"the hash of `{CA}`, and what the host keeps of deploys, beside `ca.pem` in `secrets_dir`",
    fails_when="the host was deployed with another one, such as from the machine of an operator who has the fleet's "
    f"secrets where this one has a new folder; not with `rbee-deploy apply {NEW_AUTHORITY}`",
    why="a deploy would replace every certificate and the first API key: hosts that it does not reach are cut off from "
    "the queen, and clients trust her no more",
    fix="copy the folder of secrets from whoever deployed the host, or restore it from a backup; only if it is lost, "
    f"run `rbee-deploy apply {NEW_AUTHORITY}`, or purge the host first",
    find=_authority_is_the_same,
)
