"""Whether SELinux lets workers in containers read the folders that rbee does not label."""

import re
from collections.abc import Iterator
from pathlib import Path

from rbee_deploy.modes import ContainerEngine
from rbee_deploy.preflight.checks import Case, Check, Finding, Scope, Severity
from rbee_runtime.guard import labels


def _workers_may_read(case: Case) -> Iterator[Finding]:
    found = case.facts.selinux
    if not case.host.hive or not found or not found["enforcing"]:
        return
    unlabelled = case.host.container_engine is ContainerEngine.ROOTLESS
    for folder, label in found["labels"].items():
        own = labels.is_own(Path(folder)) and not unlabelled
        # Without a type there is nothing to hold against it.
        if not own and labels.type_of(label) and not labels.is_readable(label, found["switches"]):
            yield Finding(f"SELinux keeps its workers from reading {folder} ({label})", _advice(case, folder, label))


def _advice(case: Case, folder: str, label: str) -> str:
    switch = labels.SWITCHES.get(labels.type_of(label))
    if switch is not None:
        return f"run `setsebool -P {switch} on` there"
    if labels.type_of(label) in labels.WITHOUT_LABELS:
        return f"mount what it lies on with the option `context={labels.SHARED}` there"
    # A policy knows paths by regular expressions; and restorecon leaves categories and some types alone unless forced.
    pattern = re.sub(r"[.+]", r"\\\g<0>", folder)
    made = "" if folder != case.host.models_dir or folder in case.facts.paths else f"mkdir -p {folder} && "
    return (
        f"run `{made}semanage fcontext -a -t container_ro_file_t '{pattern}(/.*)?' && restorecon -RF {folder}` there, "
        "unless others count on its labels"
    )


SELINUX = Check(
    id="selinux-labels",
    title="SELinux lets workers read the operator's folders",
    looks_at="where SELinux is enforcing, the labels of `hf_caches`, and of `models_dir` unless it is below "
    "`/var/lib/rbee`; with `rootless` there too",
    fails_when="the type is none that containers may read (`container_ro_file_t`, `container_file_t`, `usr_t`), the "
    "label has categories, or it is that of a network's file system and the switch for such is off",
    why="rbee labels its own places alone: to label a folder may take long, fails on many network disks, and takes it "
    "from others who read it by the label that it has",
    fix="label it with `semanage fcontext` and `restorecon`, or turn the switch on with `setsebool`; mount a disk that "
    "takes no labels with `context=`",
    find=_workers_may_read,
    severity=Severity.HINT,
    scope=Scope.PODMAN,
)
