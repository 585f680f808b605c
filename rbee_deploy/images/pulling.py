"""The script by which an engine gets an image from a registry; pure.

An image is known by its id, so that it does not matter which registry it comes from: mirrors are asked first.
"""

import shlex
from collections.abc import Sequence

from rbee_deploy.activator import places
from rbee_deploy.activator.engines import in_shell
from rbee_deploy.images.manifest import Image
from rbee_deploy.modes import ContainerEngine
from rbee_runtime import ports

SECONDS = 3600
"""Bound of one pull: a slow line takes half an hour for an image with CUDA."""

_REASONS = (
    ("*nauthorized*|*denied*|*uthentication*required*", "wants other credentials: give it registry_auth=… in fleet()"),
    ("*manifest*unknown*|*not*found*", "has no such image: push it there again"),
    (
        "*no*image*found*for*arch*|*no*matching*manifest*",
        "has it for other processors only: build and push it for this one too",
    ),
    ("*o*space*left*", "sent more than the disk holds: make room where the engine keeps images"),
    (
        "*no*such*host*|*refused*|*imeout*|*unreachable*|*deadline*|*no*route*",
        "does not answer: look at the network, or name a mirror",
    ),
    ("*certificate*|*x509*|*HTTPS*client*", "is not trusted: put its authority where the engine looks for it"),
)
"""What engines say, and what to do: by Podman 5.4 and Docker 26."""

_OPERATORS = ("registry_auth=", "push it there again", "build the images again")
"""What stands in sentences about images that no host can put right."""


def is_operators(sentence: str) -> bool:
    """Say whether an image did not come because of what the operator gave, or had pushed or built."""
    return any(words in sentence for words in _OPERATORS)


def references(image: Image, mirrors: Sequence[str]) -> tuple[str, ...]:
    """Return where an image may be pulled from, by its digest: each mirror has the path of the registry itself."""
    path = image.repository.partition("/")[2]
    return tuple(f"{place}@{image.digest}" for place in (*(f"{mirror}/{path}" for mirror in mirrors), image.repository))


def noted(image: Image) -> str:
    """Return the line that has a host know of an image that is about to come, for a purge to find it."""
    folder, file = shlex.quote(str(places.IMAGES.parent)), shlex.quote(str(places.IMAGES))
    return f"(umask 077; mkdir -p {folder}; grep -qsxF -- {image.id} {file} || echo {image.id} >>{file})"


def pull(image: Image, engine: ContainerEngine, mirrors: Sequence[str] = ()) -> str:
    """Return the script; the credentials' file comes on its standard input, and is gone when it ends."""
    name = in_shell(engine)
    command = {
        ContainerEngine.PODMAN: f'{name} pull --quiet --authfile "$auth/config.json"',
        ContainerEngine.DOCKER: f'{name} --config "$auth" pull --quiet',
        ContainerEngine.ROOTLESS: f'{name} pull --quiet --authfile "$auth/config.json"',
    }[engine]
    # Whoever pulls has to read it, and owns nothing of it: root would follow what an owner puts in its way.
    given = (
        f'chgrp {ports.ENGINE_USER} "$auth" "$auth/config.json"; chmod 0710 "$auth"; chmod 0640 "$auth/config.json"'
        if engine is ContainerEngine.ROOTLESS
        else ""
    )
    other = f"what {engine.program} pulled is not the image {image.tag} ({image.id}); push it there again"
    return "\n".join(
        (
            "umask 077; auth=$(mktemp -d -p /run) || exit 1",
            'heard=$(mktemp -d -p /run) || { rmdir "$auth"; exit 1; }',
            # A shell that a signal ends runs no trap for its exit.
            "trap 'rm -rf \"$auth\" \"$heard\"' EXIT; trap 'exit 1' HUP INT TERM",
            'cat >"$auth/config.json"',
            *([given] if given else []),
            noted(image),
            "pulled=",
            f"for from in {shlex.join(references(image, mirrors))}; do",
            f'  timeout {SECONDS} {command} "$from" >/dev/null 2>"$heard/said" </dev/null && pulled=yes && break',
            '  said=$(grep -v "^Trying to pull" "$heard/said" | tail -n 3 | tr "\\n" " ")',
            "  case $said in",
            *(f"    {pattern}) why={shlex.quote(reason)};;" for pattern, reason in _REASONS),
            '    *) why="failed: $said";;',
            "  esac",
            f'  echo "the registry of $from, asked for {image.tag}, $why" >>"$heard/whys"',
            "done",
            '[ -n "$pulled" ] || { cat "$heard/whys" >&2; exit 1; }',
            f"{name} image inspect {image.id} >/dev/null 2>&1 || {{ echo {shlex.quote(other)} >&2; exit 1; }}",
            f"{name} tag {image.id} {image.tag}",
        )
    )
