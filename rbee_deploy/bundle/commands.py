"""What `rbee-deploy` takes and does about bundles."""

import argparse
from pathlib import Path

from rbee_deploy import sources
from rbee_deploy.artefacts import Target, say_to_stderr
from rbee_deploy.bundle import targets
from rbee_deploy.bundle.folder import Bundle, verified
from rbee_deploy.bundle.make import make
from rbee_deploy.bundle.source import Bundled
from rbee_deploy.errors import BundleError

HELP = "make one folder with all that hosts get, or verify one"


def add_options(command: argparse.ArgumentParser) -> None:
    """Give a command that brings things to hosts the options to take them from a bundle."""
    command.add_argument("--bundle", type=Path, metavar="DIR", help="take everything from this bundle, no network")
    command.add_argument("--bundle-sha256", metavar="HEX", help="the hash that was printed when it was made")
    command.set_defaults(takes_bundle=True, brings=True)


def take(options: argparse.Namespace) -> None:
    """Have this run take everything from the bundle that the options name, once all of it is verified.

    Call it before the inventory is read, whose models may have no file here then, and so before any host is contacted.
    A command without these options takes nothing from a bundle, and one that brings nothing to hosts takes nothing from
    anywhere: of what only a bundle holds, it needs none here. Raises BundleError.
    """
    if not getattr(options, "brings", True):
        sources.choose(sources.Nothing())
    if not getattr(options, "takes_bundle", False):
        return
    if options.bundle is not None:
        sources.choose(Bundled(verified(options.bundle.absolute(), options.bundle_sha256)))
    elif options.bundle_sha256 is not None:
        raise BundleError("--bundle-sha256 is of a bundle: give its folder by --bundle")


def add_arguments(command: argparse.ArgumentParser) -> None:
    """Give `rbee-deploy bundle` its arguments; the inventory is not needed to verify."""
    command.add_argument("-i", "--inventory", help="the inventory, a Python file")
    command.add_argument("-o", "--output", type=Path, metavar="DIR", help="the folder of the bundle")
    command.add_argument("--target", action="append", default=[], metavar="TARGET", help=_target_help())
    command.add_argument("--from-hosts", action="store_true", help="ask the hosts of the inventory what they are")
    command.add_argument(
        "--operator", metavar="TARGET", help="the machine that rbee-deploy will run on, as a target (default: as this)"
    )
    command.add_argument("--verify", type=Path, metavar="DIR", help="hold every file of a bundle to its manifest")
    command.add_argument("--bundle-sha256", metavar="HEX", help="with --verify: the hash that was printed at making")


def _target_help() -> str:
    return f"a kind of host: {', '.join(targets.DISTRIBUTIONS)} or python=3.13,arch=x86_64,glibc=2.41; repeatable"


def run(options: argparse.Namespace) -> Bundle:
    """Make or verify a bundle; `options.site` is the fleet if an inventory was given. Raises BundleError."""
    if options.verify is not None:
        return verified(options.verify.absolute(), options.bundle_sha256)
    if options.site is None or options.output is None:
        raise BundleError("a bundle needs an inventory and a folder: rbee-deploy bundle -i INVENTORY -o DIR")
    folder = options.output.absolute()
    try:
        return _make(options, folder)
    except KeyboardInterrupt as interrupt:
        said = f"interrupted: {folder} is as it was; the same command goes on with what is in the cache"
        raise BundleError(said) from interrupt


def _make(options: argparse.Namespace, folder: Path) -> Bundle:
    operators = targets.parse(options.operator) if options.operator else Target.this_machine()
    given = [targets.parse(text) for text in options.target]
    asked = _asked(options)
    processors = {name: target.arch for name, target in asked.items()}
    bundle = make(options.site, (*given, *asked.values()), folder, operators, processors=processors)
    say_to_stderr(
        f"{folder}: {len(bundle.manifest.entries)} files, {bundle.size / (1 << 20):.0f} MiB, for hosts with "
        f"{targets.described(bundle.manifest.targets)}"
    )
    return bundle


def _asked(options: argparse.Namespace) -> dict[str, Target]:
    """Return what each host says that it is, by its name, if hosts are to be asked."""
    if not options.from_hosts:
        return {}
    # Loads pyinfra, which patches the standard library.
    from rbee_deploy.bundle.hosts import ask  # noqa: PLC0415

    return ask(options.inventory, options.site)
