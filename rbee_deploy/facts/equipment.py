"""What a host is equipped with, as the state fact asks and reads it: control groups, NVIDIA cards, container tools."""

import re
from typing import Any

NVIDIA_HOOK = "nvidia-container-runtime-hook"
"""By which Docker gives cards where it does not know CDI."""

PROGRAMS = ("podman", "docker", "crun", "runc", "nvidia-ctk", NVIDIA_HOOK)
ROOTLESS = ("newuidmap", "newgidmap", "pasta", "slirp4netns")
"""Whether they are there is all that matters, and the first two have no version to say."""
LIBRARY_PLACES = ("/usr/lib/*-linux-gnu", "/usr/lib/*-linux-gnu/nvidia/current", "/usr/lib64", "/usr/lib")

_NUMBER = re.compile(r"\d+(?:\.\d+)+")

# Only what the shell has built in: a server has hundreds of PCI devices.
_NVIDIA = r"""
echo @nvidia
for path in /sys/bus/pci/devices/*; do
  vendor=; class=; read -r vendor <"$path/vendor"; read -r class <"$path/class"
  case "$vendor $class" in "0x10de 0x03"*) printf "card\t%s\n" "${path##*/}";; esac
done
if [ -e /proc/driver/nvidia/version ]; then
  printf "module\t%s\n" "$(grep -oE "[0-9]+[.][0-9.]*[0-9]" /proc/driver/nvidia/version | head -n 1)"
fi
for path in /proc/driver/nvidia/gpus/*/information; do
  [ -r "$path" ] && printf "uuid\t%s\n" "$(grep -oE "GPU-[0-9a-f-]+" "$path" | head -n 1)"
done
[ -e /dev/nvidiactl ] && printf "control\t/dev/nvidiactl\n"
for path in PLACES; do
  [ -e "$path" ] && printf "library\t%s\n" "${path##*/libnvidia-ml.so.}"
done
"""

_CDI = r"""
echo @cdi
for path in /etc/cdi/* /var/run/cdi/*; do
  case ${path##*/} in *[!A-Za-z0-9._+-]*) continue;; *.yaml | *.yml | *.json) ;; *) continue;; esac
  grep -qE "kind\"?: *\"?nvidia[.]com/gpu" "$path" || continue
  driver=$(grep -oE "libcuda[.]so[.][0-9]+[.][0-9.]*[0-9]" "$path" | head -n 1)
  names=$(grep -oE "name[\"']?: *[\"']?NAMES\b" "$path" | grep -oE "NAMES$" | sort -u | tr "\n" " ")
  printf "%s\t%s\t%s\t%s\n" "$(stat -L -c %a -- "$path")" "${driver#libcuda.so.}" "$path" "$names"
done
"""

# Those by which rbee asks for cards, and that of all.
_CDI_NAMES = "(all|GPU-[0-9a-f-]+|MIG-[0-9A-Za-z/-]+)"

_CGROUP = r"""
echo @cgroup
if [ -e /sys/fs/cgroup/cgroup.controllers ]; then echo "unified $(cat /sys/fs/cgroup/cgroup.controllers)"
elif [ -d /sys/fs/cgroup ]; then echo legacy; fi
"""

# Memory of cards: NVIDIA's by its own tool (MiB), AMD's where its driver shows it (bytes).
_GPUS = r"""
echo @gpus
if [ -e /dev/nvidiactl ] && command -v nvidia-smi >/dev/null 2>&1; then
  timeout 10 nvidia-smi --query-gpu=memory.total --format=csv,noheader,nounits </dev/null |
    while read -r mib; do case $mib in "" | *[!0-9]*) ;; *) printf "mib\t%s\n" "$mib";; esac; done
fi
for path in /sys/class/drm/card*/device/mem_info_vram_total; do
  [ -r "$path" ] && read -r size <"$path" && case $size in *[!0-9]*) ;; *) printf "bytes\t%s\n" "$size";; esac
done
"""

# Side by side: each takes long to start, for what it says.
_PROGRAMS = r"""
echo @programs
for name in NAMES; do
  command -v "$name" >/dev/null 2>&1 || continue
  printf "%s\t%s\n" "$name" "$(timeout 10 "$name" --version </dev/null | head -n 1 | tr -dc "A-Za-z0-9 ._+:~-")" &
done
wait
for name in QUIET; do command -v "$name" >/dev/null 2>&1 && printf "%s\t\n" "$name"; done
echo @userns
for path in /usr/lib/systemd/user/dbus.socket /lib/systemd/user/dbus.socket; do [ -e "$path" ] && echo bus; done
cat /proc/sys/kernel/unprivileged_userns_clone /proc/sys/user/max_user_namespaces
"""


def script() -> str:
    """Return the part of the script that asks."""
    places = " ".join(f"{place}/libnvidia-ml.so.*.*" for place in LIBRARY_PLACES)
    parts = (_CGROUP, _NVIDIA.replace("PLACES", places), _CDI.replace("NAMES", _CDI_NAMES), _GPUS, _programs())
    return "\n".join(part.strip() for part in parts)


def _programs() -> str:
    return _PROGRAMS.replace("NAMES", " ".join(PROGRAMS)).replace("QUIET", " ".join(ROOTLESS))


def userns(lines: list[str]) -> dict[str, Any]:
    """Return whether users without rights may have user namespaces, and get a bus of their own."""
    return {"userns": "0" not in lines, "user_bus": "bus" in lines}


def cgroup(lines: list[str]) -> dict[str, Any]:
    """Return the hierarchy, `unified` or `legacy`, and the controllers of a unified one."""
    hierarchy, *controllers = lines[0].split() if lines else [""]
    return {"cgroup": hierarchy, "controllers": controllers}


def nvidia(lines: list[str]) -> dict[str, Any]:
    """Return what there is of NVIDIA's.

    That is the cards by PCI address, their ids as far as the driver says them, the loaded module's version (None: not
    loaded) and the libraries' versions.
    """
    rows = [(kind, value) for kind, mark, value in (line.partition("\t") for line in lines) if mark]
    return {
        "nvidia": {
            "cards": [value for kind, value in rows if kind == "card"],
            "uuids": [value for kind, value in rows if kind == "uuid" and value],
            "module": next((value for kind, value in rows if kind == "module"), None),
            "has_control": any(kind == "control" for kind, _ in rows),
            "libraries": sorted({value for kind, value in rows if kind == "library"}),
        }
    }


def cdi(lines: list[str]) -> dict[str, Any]:
    """Return the CDI specifications of NVIDIA cards: path, octal mode, the driver that each was made for, and names.

    The names of devices are `all` and those by ids of cards; indices are left out, since nothing of ours uses them.
    """
    rows = [row for row in (line.split("\t") for line in lines) if len(row) == 4]
    return {
        "cdi": [
            {"path": path, "mode": mode, "driver": driver, "names": names.split()} for mode, driver, path, names in rows
        ]
    }


def gpus(lines: list[str]) -> dict[str, Any]:
    """Return the memory of each card in bytes."""
    rows = [(unit, size) for unit, mark, size in (line.partition("\t") for line in lines) if mark and size.isdigit()]
    return {"gpus": [int(size) << 20 if unit == "mib" else int(size) for unit, size in rows]}


def programs(lines: list[str]) -> dict[str, Any]:
    """Return the version of each program that is there, "" where it did not say one."""
    rows = [
        (name, said)
        for name, mark, said in (line.partition("\t") for line in lines)
        if mark and name in (*PROGRAMS, *ROOTLESS)
    ]
    versions = {name: _NUMBER.search(said) for name, said in rows}
    return {"programs": {name: found[0] if found else "" for name, found in versions.items()}}
