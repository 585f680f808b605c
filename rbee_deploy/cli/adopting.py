"""adopt: find what speaks OpenAI's API on a host, and print the lines that make it workers of the queen."""

import argparse
import json
from typing import Any

from rbee_deploy.adoption import found, search
from rbee_deploy.cli import documents, looking, running
from rbee_deploy.cli.arguments import Commands, command
from rbee_deploy.errors import DeployError
from rbee_deploy.here import Here
from rbee_deploy.operations import ask
from rbee_deploy.site import Site
from rbee_deploy.stages import Stage

NOWHERE = (
    f"nothing that speaks OpenAI's API answers there; looked at what {', '.join(search.NAMES[:-1])} and "
    f"{search.NAMES[-1]} listen on, and at ports {', '.join(map(str, search.PORTS))}"
)


def register(commands: Commands) -> None:
    """Add the command."""
    text = "find llama-server, vLLM, Ollama and the like on a host, and print the lines that make them workers"
    added = command(commands, "adopt", _adopt, text, limits=False)
    added.add_argument("host", metavar="HOST", help="a host of the inventory; nothing is changed there")


def _adopt(options: argparse.Namespace) -> int:
    names = [item.name for item in options.site.hosts]
    if options.host not in names:
        raise DeployError(f"{options.inventory} has no host {options.host}; it has {', '.join(names)}")
    if running.go(running.limited(options, options.host), wanted=_stages):
        return 1
    rows = [row for here in running.hosts() for row in _rows(here)]
    lines = found.lines(options.host, rows, options.inventory) if rows else ()
    documents.tell(options, *lines, host=options.host, found=rows)
    if not rows:
        raise DeployError(f"{options.host}: {NOWHERE}")
    return 0


def _stages(site: Site) -> tuple[Stage, ...]:
    return (*looking.look(site), Stage("search", (("ask what is there", _search),), quiet=True))


def _search(here: Here, name: str) -> Any:
    def script() -> str:
        return f"{here.facts.raw.get('python_path') or 'python3'} -I -"

    return ask.answered(name=name, script=script, lines=found.program)


def _rows(here: Here) -> list[dict[str, Any]]:
    answer = here.host.connector_data.get(ask.ANSWER)
    if not answer:
        raise DeployError(f"{here.declared.name}: the search printed nothing; see whether python3 works there")
    return found.report(found.parse(json.loads(answer[-1])), here.site, here.declared)
