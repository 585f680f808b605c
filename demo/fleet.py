"""The demo with root: two real hosts, one inventory, one command, a chat answer from the other host."""

import os
import re
import runpy
import ssl
import subprocess
import sys
from pathlib import Path

from demo import hosts
from demo.chat import Endpoint, stream_answer, wait_ready
from demo.processes import running
from demo.story import DemoError, Story
from rbee_deploy.inventory import Site
from tests.lab import Lab

ROOT = Path(__file__).parent.parent
INVENTORY = "inventories/lab.py"
DEPLOY = ("pyinfra", INVENTORY, "rbee_deploy/deploy.py", "--yes")
COMMAND = f".venv/bin/{' '.join(DEPLOY)}"
_VERDICT = re.compile(r"\d\.\d s  (unchanged|changed|failed)\b")


def run_fleet(story: Story) -> None:
    """Make or find the hosts, deploy, chat, and say what can be tried next."""
    lab = hosts.prepare(story)
    story.tell(COMMAND)
    changed = deploy()
    story.tell(f"deployed: {changed} change{'' if changed == 1 else 's'}")
    site = the_site()
    endpoint = endpoint_of(site)
    model = site.models[0].name
    wait_ready(endpoint, model)
    story.tell(f"{model} is ready")
    story.tell(stream_answer(endpoint, model))
    status = lab.hosts[hosts.GPU_HOST].run("systemctl --no-pager --lines=0 status rbee-hive", check=False)
    story.show(f"{hosts.GPU_HOST}$ systemctl status rbee-hive\n{status.stdout}")
    story.show(_next_steps(lab, site, endpoint))
    story.tell("done")


def deploy() -> int:
    """Run the user's own command, pass its lines on, and return how many stages changed a host."""
    program = Path(sys.executable).with_name(DEPLOY[0])
    changed = 0
    with running([str(program), *DEPLOY[1:]], cwd=ROOT, output=subprocess.PIPE) as child:
        for line in child.stdout or ():
            text = line.decode(errors="replace").rstrip()
            verdict = _VERDICT.search(text)
            changed += verdict is not None and verdict[1] == "changed"
            print(text, flush=True)
        if child.wait() != 0:
            raise DemoError(
                f"the deploy ended with exit status {child.returncode}: see above, then run make demo again"
            )
    return changed


def the_site() -> Site:
    """Return the fleet that the demo's inventory declares."""
    names = runpy.run_path(str(ROOT / INVENTORY))
    site: Site = names["queen"][0][1]["rbee"].site
    return site


def endpoint_of(site: Site) -> Endpoint:
    """Return how the operator's machine reaches the fleet's queen as a client."""
    plain = site.client_endpoint == "plain-http"
    url = f"{'http' if plain else 'https'}://{site.queen.ssh_address}:{site.queen.queen_port}"
    key = (site.secrets / "api-key").read_text(encoding="utf-8").strip()
    ca = None if plain else ssl.create_default_context(cafile=site.secrets / "ca.pem")
    return Endpoint(url=url, key=key, ca=ca)


def _next_steps(lab: Lab, site: Site, endpoint: Endpoint) -> str:
    model = site.models[0].name
    # Hosts, their keys and the secrets belong to root; a machine without sudo needs no such word.
    root = "sudo " if "SUDO_USER" in os.environ else ""
    return f"""\
queen     {endpoint.url}/v1
API key   {endpoint.key}

Ask again:
  export RBEE_URL={endpoint.url} RBEE_API_KEY={endpoint.key}
  .venv/bin/rbee-keeper chat {model} "Write one sentence about bees."
Look around:
  {root}.venv/bin/python -m tests.lab ssh {lab.name} {hosts.GPU_HOST}
Add a host (in your own inventory: one more line host("gpu2", address="192.0.2.12"), in hosts=[…]):
  {root}.venv/bin/python -m demo add gpu2 && {root}{COMMAND}
Deploy again, which changes nothing:
  {root}{COMMAND}
Remove all of it:
  {root}make demo-down"""


def add_host(story: Story, name: str) -> None:
    """Make one more throw-away host; the lab's inventory lists every host of the lab."""
    lab = hosts.existing()
    if lab is None:
        raise DemoError("there is no demo to add a host to: run make demo first")
    if name in lab.hosts:
        raise DemoError(f"the demo has a host {name} at {lab.hosts[name].address}: choose another name")
    address = lab.add_host(name, image=hosts.IMAGE).address
    story.tell(f"host {name} is up at {address}; deploy to it with\n  {COMMAND}")


def remove_fleet(story: Story) -> None:
    """Destroy the demo's hosts, and with them the secrets of its fleet; any user may ask whether there are some."""
    lab = hosts.existing()
    if lab is None:
        return
    if os.geteuid() != 0:
        raise DemoError(f"the demo's hosts (lab {lab.name} in {lab.directory}) belong to root: sudo make demo-down")
    lab.destroy()
    story.tell(f"lab {lab.name} removed")
