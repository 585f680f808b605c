"""The secrets that parts of a stack name: which files each has, and what is in them where somebody asks for that."""

from collections.abc import Mapping, Sequence

from rbee_deploy import externals, model_credentials
from rbee_deploy.authority import CLIENT_ROLE, EXPORTED, FleetAuthority, site_state, utc_now
from rbee_deploy.externals import KEYS
from rbee_deploy.operator_tls import operator_certificate
from rbee_deploy.render import Certificate, SiteState
from rbee_deploy.secrets import Secret, asked_for
from rbee_deploy.site import Host, Site, TlsPaths

AUTHORITY, BOOTSTRAP = "ca.pem", "bootstrap-key"
LOCAL = ("localhost", "127.0.0.1", "::1")


def names(site: Site, host: Host, role: str) -> tuple[str, ...]:
    """Return the files of a part's credentials; pure."""
    pairs = tuple(f"{each}.{end}" for each in _roles(site, role) for end in ("pem", "key"))
    if role == "hive":
        return (AUTHORITY, *pairs, *site.model_credentials(host))
    return (AUTHORITY, *pairs, BOOTSTRAP, *((KEYS,) if site.external_keys else ()))


def read(site: Site, client_names: Sequence[str]) -> dict[tuple[str, str], Mapping[str, Secret]]:
    """Return the files of every part with their content, by role and host; DeployError.

    Certificates are issued where they are missing. `client_names` are those under which clients reach the queen.
    """
    # Before an authority is made or a certificate issued: what is refused leaves nothing behind.
    fetching = {host.name: _fetching(site, host) for host in site.hives}
    keys = {KEYS: externals.keys(site.external)} if site.external_keys else {}
    if isinstance(site.client_endpoint, TlsPaths):
        operator_certificate(site.client_endpoint, utc_now())
    authority = FleetAuthority.open(site.secrets, site.name)
    state = site_state(authority, site, release="", models={})
    client = _client(authority, site, state, client_names)
    queen = _files(state, site.queen, "queen") | client | {BOOTSTRAP: Secret(state.bootstrap_key + "\n")}
    return {
        ("queen", site.queen.name): queen | keys,
        **{("hive", host.name): _files(state, host, "hive", "worker") | fetching[host.name] for host in site.hives},
    }


def _roles(site: Site, role: str) -> tuple[str, ...]:
    if role == "hive":
        return ("hive", "worker")
    return ("queen", *((CLIENT_ROLE,) if site.client_endpoint != "plain-http" else ()))


def _files(state: SiteState, host: Host, *roles: str) -> dict[str, Secret]:
    found = {AUTHORITY: Secret(state.ca)}
    for role in roles:
        found |= _pair(role, state.certificates[role, host.name])
    return found


def _pair(role: str, certificate: Certificate) -> dict[str, Secret]:
    return {f"{role}.pem": Secret(certificate.pem), f"{role}.key": certificate.key}


def _client(authority: FleetAuthority, site: Site, state: SiteState, client_names: Sequence[str]) -> dict[str, Secret]:
    if site.client_endpoint == "plain-http":
        return {}
    if isinstance(site.client_endpoint, TlsPaths):
        return _pair(CLIENT_ROLE, state.certificates[CLIENT_ROLE, site.queen.name])
    # Not the queen host's own, which a deploy by SSH would have issued anew for other names.
    known = dict.fromkeys((*client_names, site.queen.reach, site.queen.name, *LOCAL))
    return _pair(CLIENT_ROLE, authority.certificate(CLIENT_ROLE, EXPORTED, known))


def _fetching(site: Site, host: Host) -> dict[str, Secret]:
    found = {}
    for name, source in site.model_credentials(host).items():
        with asked_for(site.credential_field(host, name)):
            found[name] = model_credentials.read(name, source)
    return found
