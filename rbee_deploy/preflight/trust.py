"""Whether the host trusts this operator's authority, so that a deploy does not put another one over a whole fleet."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity
from rbee_runtime import ports

CA = str(ports.CREDENTIALS / "ca.pem")
NEW_AUTHORITY = "--new-authority"
"""The option that lets a deploy replace the authority of hosts."""

NEW_AUTHORITY_DATA = "rbee_new_authority"
"""What the option sets to true among pyinfra's data, as `--data` of pyinfra itself does."""

NOTICE = timedelta(days=60)
"""Enough to bring a new ca.pem to every client."""

OWN_NOTICE = timedelta(days=14)
"""Less than is left when a certificate of 47 or 90 days is renewed by itself: a hint that always comes is none."""


def _authority_is_the_same(case: Case) -> Iterator[Finding]:
    facts, ours = case.facts, case.trust.authority
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


def _certificates_last(case: Case) -> Iterator[Finding]:
    secrets, now = case.site.secrets, datetime.fromtimestamp(case.operator_now, UTC)
    for what, end, notice, fix in (
        (
            f"the authority in {secrets}",
            case.trust.ends,
            NOTICE,
            f"before then move the folder away, run rbee-deploy apply {NEW_AUTHORITY} and give clients the new ca.pem",
        ),
        (
            "your own certificate for clients, client_endpoint,",
            case.trust.own_ends,
            OWN_NOTICE,
            "renew it in time and run rbee-deploy apply",
        ),
    ):
        if end is not None and end - now < notice:
            yield Finding(f"{what} ends on {end.date()}", fix)


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
LASTS = Check(
    id="certificates-last",
    title="What certificates depend on lasts",
    looks_at="the end of `ca.pem` in `secrets_dir`, and of your own certificate for clients (`TlsPaths`)",
    fails_when=f"less than {NOTICE.days} days are left, or {OWN_NOTICE.days} of your own",
    why="a deploy renews what the authority issues, but neither the authority itself, which lasts ten years, nor what "
    "is yours; nothing connects once that has ended",
    fix="renew your own certificate; for the authority begin a new one, as if it were lost",
    find=_certificates_last,
    severity=Severity.HINT,
    scope=Scope.QUEEN,
)
