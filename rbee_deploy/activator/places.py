"""Where the activator keeps what it knows, on the host."""

from pathlib import Path

from rbee_runtime import ports

HOME = ports.STATE / "deploy"
"""Root's alone: generations, the state and the audit log."""

STATE = HOME / "state.json"
AUDIT = HOME / "audit.jsonl"
GENERATIONS = HOME / "generations"
IMAGES = HOME / "images"
"""The ids of images that deploys began to bring, one in a line: what fails before there is a generation is in none."""

BLOBS = HOME / "blobs"
DATABASES = HOME / "databases"
"""Copies of the queen's database, each named by the generation that it was taken from."""

SECRET_BLOBS = ports.CREDENTIALS / ".kept"
"""Content of credentials of generations that can be gone back to: secrets lie in this one folder and nowhere else."""

RESOLVER_MADE = HOME / "resolver-made"
"""There where /etc/resolv.conf was missing until a rootless Podman needed one, and an empty one was made."""

FREEZE = HOME / "freeze"
"""Where a person forbids deploys until further notice: who, since when, why, by tabs."""

FALLBACK = ports.ETC / "fallback"
"""There on a host that is to run in containers and runs bare, because it could not."""

FIREWALL = ports.ETC / "firewall.json"
"""Who may connect to which port of ours; on hosts whose inventory asks for a firewall."""

FIREWALL_HELD = HOME / "firewall.json"
"""The rules that were put in force for it, which alone are ours to take away."""

RUN = Path("/run/rbee-deploy")
LEASE = RUN / "lease"
"""Which deploy is at work on the host: its id, who, since when, by tabs; as old as its last sign of life."""

LOCK = RUN / "activation.lock"
