"""What a deploy leaves on a host, put there by hand: accounts, folders and rendered files, or a real release."""

import shlex

from demo.build import LAB_TARGET
from rbee_deploy import accounts
from rbee_deploy.releases import build_release, install_script, uv_binary
from rbee_deploy.render import owned_files
from tests.lab import LabHost
from tests.unit.deploy.sites import one_box, state_of

RELEASE = "/opt/rbee/releases/lab"


def furnish(host: LabHost) -> None:
    """Put accounts, folders and files there as a deploy would."""
    box = one_box().queen
    lines = [f"groupadd --system {group.name}" for group in accounts.groups(box)]
    for user in accounts.users(box):
        joined = f"--groups {','.join(user.groups)}" if user.groups else ""
        lines.append(f"useradd --system --user-group --no-create-home {joined} {user.name}")
    lines += [f"install -d -o {d.owner} -g {d.group} -m {d.mode} {d.path}" for d in accounts.directories(box)]
    host.run(" && ".join(lines))
    for file in owned_files(one_box(), box, state_of(one_box())):
        host.put(file.text(), file.path)
        host.run(f"chown {file.owner}:{file.group} {file.path} && chmod {file.mode} {file.path}")


def install_release(host: LabHost) -> None:
    """Install this tree's release on a Debian 13 host as the deploy does, offline."""
    release, uv = build_release(None, LAB_TARGET), uv_binary(LAB_TARGET)
    host.run("mkdir -p /root/in && tar -C /root/in -xf -", input=release.archive.read_bytes())
    host.run("tar -C /usr/local/bin -xf -", input=uv.archive.read_bytes())
    for line in install_script("/root/in", RELEASE):
        host.run(shlex.join(line), timeout=180)
    host.run(f"ln -sfn {RELEASE} /opt/rbee/current")
