"""For each check of preflight, the hosts on which it alone speaks, and what it says there."""

from rbee_deploy.inventory import simulated
from rbee_deploy.preflight import Needs, Trust
from tests.unit.deploy.made_up_hosts import (
    CA,
    CACHE,
    CARD,
    GUARD,
    HOME_LABEL,
    HOOK,
    LATER,
    MIG,
    NAS,
    NFS_LABEL,
    OLD_SPEC,
    OTHER_AUTHORITY,
    OTHER_UUID,
    OWN_SOON,
    RULES,
    SOON,
    SPEC,
    UUID,
    Trigger,
    contained,
    housed,
    in_docker,
    labelled,
    networks,
    silent,
    without_root,
)
from tests.unit.deploy.test_preflight import GIB, NOW

TRIGGERS: dict[str, list[Trigger]] = {
    "root-access": [Trigger("sudo is not installed; install sudo", {"sudo": "missing"})],
    "authority": [
        Trigger(OTHER_AUTHORITY, {"paths": {CA: {"sha256": "theirs"}}, "contents": ["theirs"]}),
        Trigger(OTHER_AUTHORITY, {"paths": {CA: {"sha256": "theirs"}}, "contents": ["theirs", "ours"]}),
        Trigger(OTHER_AUTHORITY, {"paths": {CA: {"sha256": "by hand"}}, "contents": ["theirs"]}),
        Trigger(OTHER_AUTHORITY, {"paths": {CA: {"sha256": "theirs, and the host lost its records"}}}),
    ],
    "certificates-last": [
        Trigger(
            "the authority in /home/me/secrets ends on 2027-03-15; before then move the folder away, run rbee-deploy "
            "apply --new-authority and give clients the new ca.pem",
            trust=Trust("ours", ends=SOON),
            on_queen=True,
        ),
        Trigger(
            "your own certificate for clients, client_endpoint, ends on 2027-01-28; renew it in time and run",
            trust=Trust("ours", ends=LATER, own_ends=OWN_SOON),
            on_queen=True,
        ),
    ],
    "distribution": [
        Trigger("Rocky Linux 8.10 is too old: its systemd", {"os_id": "rocky", "os_version": "8.10"}),
        Trigger("Debian 11 is too old: its systemd", {"os_id": "debian", "os_version": "11"}),
        Trigger("Ubuntu 23.10 is too old: its systemd", {"os_id": "ubuntu", "os_version": "23.10"}),
    ],
    "architecture": [
        Trigger("its architecture is riscv64; use a host with x86_64 or aarch64", {"arch": "riscv64"}, {"engines": []})
    ],
    "c-library": [Trigger("it does not say which glibc it has", {"glibc": None})],
    "systemd": [Trigger("systemd 249 is older than 250; upgrade it", {"systemd": 249})],
    "python": [Trigger("Python 3.15 is newer than any that rbee has packages for; install", {"python": "3.15"})],
    "polkit": [Trigger("polkit is missing, without which the hive", {"polkit": False, "os_id": "arch"})],
    "clock": [Trigger("its clock is 301 s ahead of this machine's; run timedatectl", {"clock_unix": NOW + 301})],
    "control-groups": [
        Trigger("its control groups are the legacy hierarchy, on which", {"cgroup": "legacy"}, changed=contained),
        Trigger(
            "it has no control group controllers of memory and pids, so such limits do not hold for workers; if you",
            {"cgroup": "unified", "controllers": ["cpuset", "cpu"]},
            changed=contained,
        ),
    ],
    "engine-build": [Trigger("its architecture is aarch64, for which there is no build of the", {"arch": "aarch64"})],
    "cpu-baseline": [Trigger("its CPU is x86_64, and the engine is built for", {"cpu_baseline": "x86_64"})],
    "disk-space": [
        Trigger("/opt/rbee has 512 MiB free and needs 1.4 GiB", {"disk_free": {"/opt/rbee": GIB // 2}}),
        Trigger(
            "/var/lib/rbee has 3.0 GiB free and needs 3.1 GiB; make room, or give",
            {"disk_free": {"/var/lib/rbee": 3 * GIB}},
            {"models_dir": "/var/lib/rbee"},
        ),
    ],
    "models-dir": [
        Trigger("models_dir is /var/lib/rbee/models, and /var is no", {"paths": {"/var": {"kind": "fifo"}}})
    ],
    "models-dir-place": [
        Trigger(
            "models_dir is /opt/rbee/models, and /opt/rbee belongs to rbee's own",
            {},
            {"models_dir": "/opt/rbee/models"},
        ),
        Trigger(
            "models_dir is /run/models, and /run is emptied when the host starts", {}, {"models_dir": "/run/models"}
        ),
    ],
    "memory": [Trigger("it has 1.0 GiB of memory and its models need about 2.4 GiB", {"memory_bytes": GIB})],
    "device-memory": [
        Trigger(
            "model big needs 42.0 GiB, the largest GPU has 24.0 GiB; restrict it to other hosts",
            {"gpus": [12 * GIB, 24 * GIB]},
            needs=Needs(models=(("big", 42 * GIB), ("small", GIB))),
        ),
        Trigger(
            "model big needs 42.0 GiB, the largest declared GPU has 8.0 GiB",
            {"gpus": [80 * GIB]},
            {"devices": [simulated("gpu0", memory="8 GiB")]},
            needs=Needs(models=(("big", 42 * GIB),)),
        ),
    ],
    "ports": [
        Trigger("port 8600 (also a default port of Consul) is taken by consul", {"listeners": {"8600": "consul"}})
    ],
    "advertise": [Trigger("other hosts cannot reach it at ::1; write advertise=", {}, {"advertise": "::1"})],
    "advertise-own": [
        Trigger(
            "other hosts are told to reach it at 192.0.2.2, which is none of its own addresses (10.0.0.1, 10.0.0.2, "
            "10.0.0.3, …); write advertise='…' with one of them, unless address translation leads there",
            {"addresses": [f"10.0.0.{number}" for number in range(1, 6)]},
        )
    ],
    "queen-reachable": [
        Trigger(
            "it cannot reach the queen at 192.0.2.1 port 8501 (no answer within 3 s); let it through the firewalls "
            "between it and host 'queen', or write advertise='…' on 'queen' with an address that it reaches",
            {"queen_link": "unreachable: no answer within 3 s"},
        ),
        Trigger(
            "it cannot reach the queen at 192.0.2.1 port 8501 (no route to host); let it through",
            {"queen_link": "unreachable: no route to host"},
            queen={"firewall": "nftables"},
        ),
    ],
    "queen-firewall": [
        Trigger(
            "the queen at 192.0.2.1 port 8501 does not answer it yet; if it is new, a deploy without --limit opens",
            {"queen_link": "unreachable: no answer within 3 s"},
            queen={"firewall": "nftables"},
        )
    ],
    "queen-up": [
        Trigger(
            "the queen refuses connections at 192.0.2.1 port 8501, so nobody drains this host's workers or replaces "
            "them; run systemctl start rbee-queen.service on 'queen'",
            {"queen_link": "refused", "units": {"rbee-hive.service": {"active": "active"}}},
        )
    ],
    "firewall": [
        Trigger(
            "nft is missing, which firewall='nftables' needs; install the package nftables",
            {"firewall": {**GUARD, "tool": False}, "os_id": "arch"},
            {"firewall": "nftables"},
        ),
        Trigger(
            "its kernel takes no rules of nftables (nft says 'Operation not supported'); boot a kernel with nf_tables",
            {"firewall": {**GUARD, "broken": "Operation not supported"}},
            {"firewall": "nftables"},
        ),
        Trigger(
            "ufw is missing; install the package ufw and switch it on by hand; allow SSH in it first, or it locks you",
            {"firewall": {**GUARD, "tool": False, "active": False}},
            {"firewall": "ufw"},
        ),
        Trigger(
            "firewalld is not active; switch it on by systemctl enable --now firewalld; allow SSH in it first",
            {"firewall": {**GUARD, "active": False}},
            {"firewall": "firewalld"},
        ),
    ],
    "firewall-alone": [
        Trigger(
            "ufw is active on it and keeps the ports of rbee closed, whatever firewall='nftables' lets in; write "
            "firewall='ufw'",
            {"firewall": {**GUARD, "also": ["ufw"]}},
            {"firewall": "nftables"},
        )
    ],
    "gpu-driver": [
        Trigger(
            "it has an NVIDIA card and no driver of NVIDIA's is loaded; install NVIDIA's driver; workers see no such",
            {"nvidia": {"cards": ["0000:01:00.0"]}},
        ),
        Trigger(
            "it has 2 NVIDIA cards and no driver of NVIDIA's is loaded; run modprobe nvidia",
            {"nvidia": {"cards": ["0000:01:00.0", "0000:02:00.0"], "libraries": ["570.133.20"]}},
        ),
        Trigger(
            "it has an NVIDIA card and no /dev/nvidiactl; run nvidia-smi", {"nvidia": {**CARD, "has_control": False}}
        ),
    ],
    "gpu-driver-match": [
        Trigger(
            "its loaded NVIDIA driver is 570.133.20 and the libraries are 575.57.08; reboot it",
            {"nvidia": {**CARD, "libraries": ["575.57.08"]}},
        )
    ],
    "cdi-one-spec": [
        Trigger(
            "/etc/cdi/nvidia.yaml and /var/run/cdi/nvidia.yaml each describe its NVIDIA cards to containers; remove "
            "the one that nothing refreshes, such as /etc/cdi/nvidia.yaml",
            {"nvidia": CARD, "cdi": [{**OLD_SPEC, "driver": ""}, SPEC]},
        )
    ],
    "cdi-spec": [
        Trigger(
            "/var/run/cdi/nvidia.yaml has mode 640 and only root can read it; run", {"cdi": [{**SPEC, "mode": "640"}]}
        ),
        Trigger(
            "/etc/cdi/nvidia.yaml was made for driver 550.54.14 and 570.133.20 is loaded; make it again",
            {"nvidia": CARD, "cdi": [OLD_SPEC]},
        ),
    ],
    "cdi-present": [
        Trigger("nothing describes its NVIDIA cards to containers; install", {"nvidia": CARD}, changed=contained)
    ],
    "cdi-devices": [
        Trigger(
            f"no device in /var/run/cdi/nvidia.yaml is called {OTHER_UUID}, and containers are given cards by these "
            "names; make it again: nvidia-ctk cdi generate --device-name-strategy=index --device-name-strategy=uuid "
            "--output=/var/run/cdi/nvidia.yaml",
            {"nvidia": {**CARD, "uuids": [UUID, OTHER_UUID]}, "cdi": [{**SPEC, "names": [UUID]}]},
            changed=contained,
        ),
        Trigger(
            "no device in /var/run/cdi/nvidia.yaml is called all, and",
            {"nvidia": {**CARD, "uuids": [UUID]}, "cdi": [{**SPEC, "names": [MIG]}]},
            changed=housed,
        ),
    ],
    "docker-cdi": [
        Trigger(
            f"its Docker gives no devices by CDI, and there is no {HOOK} either; write "
            '{"features": {"cdi": true}} into /etc/docker/daemon.json and restart docker',
            {"nvidia": CARD, "cdi": [SPEC], "programs": {"docker": "26.1.5"}, "engine": ["answers"]},
            changed=in_docker,
        )
    ],
    "nvidia-toolkit": [
        Trigger("nvidia-container-toolkit 1.17.7 is older than 1.17.8, and", {"programs": {"nvidia-ctk": "1.17.7"}})
    ],
    "nvidia-toolkit-floor": [
        Trigger(
            "nvidia-container-toolkit 1.9.0 is older than 1.17.8, and",
            {"nvidia": CARD, "cdi": [SPEC], "programs": {"nvidia-ctk": "1.9.0"}},
            changed=contained,
        )
    ],
    "container-engine": [
        Trigger("it has no Podman 4.6 or newer; install Podman", {"os_id": "arch"}, changed=contained),
        Trigger(
            "it has no Podman 4.6 or newer; install Podman",
            {"os_id": "ubuntu", "os_version": "24.04"},
            changed=contained,
        ),
        Trigger("it has no Docker; install Docker", {"os_id": "rocky", "os_version": "9.4"}, changed=in_docker),
    ],
    "container-engine-answers": [
        Trigger(
            "podman is installed there and does not answer; run `podman ps`",
            {"programs": {"podman": "5.4.2"}, "engine": []},
            changed=contained,
        ),
        Trigger(
            "docker is installed there and does not answer; run `systemctl enable --now docker`",
            {"programs": {"docker": "28.0"}, "engine": []},
            changed=in_docker,
        ),
    ],
    "worker-rules": [
        Trigger(
            "nft is missing, which keeps workers in containers in; install the package nftables",
            {"worker_rules": {**RULES, "tool": False}, "os_id": "arch", "programs": {"podman": "5.4.2"}},
            changed=contained,
        ),
        Trigger(
            "its kernel takes no rules about workers in containers (nft says 'Operation not supported'); boot a kernel",
            {"worker_rules": {**RULES, "broken": "Operation not supported"}},
            changed=contained,
        ),
    ],
    "docker-image-store": [
        Trigger(
            "its Docker keeps images in containerd's store, where they have other ids",
            {"programs": {"docker": "29.1"}, "engine": ["answers", "containerd"]},
            changed=in_docker,
        )
    ],
    "models-no-link": [
        Trigger(
            "models_dir /var/lib/rbee/models is a link there, and containers are shown folders by their own path",
            {"paths": {"/var/lib/rbee/models": {"kind": "link"}}},
            changed=contained,
        )
    ],
    "selinux-labels": [
        Trigger(
            f"SELinux keeps its workers from reading {CACHE} ({HOME_LABEL}); run `semanage fcontext -a -t "
            rf"container_ro_file_t '/home/me/\.cache/huggingface(/.*)?' && restorecon -RF {CACHE}` there, unless",
            labelled({CACHE: HOME_LABEL, "/var/lib/rbee/models": "system_u:object_r:var_lib_t:s0"}),
            changed=contained,
        ),
        Trigger(
            f"SELinux keeps its workers from reading {NAS} ({NFS_LABEL}); run `setsebool -P virt_use_nfs",
            labelled({NAS: NFS_LABEL}, "virt_use_samba"),
            {"models_dir": NAS},
            contained,
        ),
        Trigger(
            "SELinux keeps its workers from reading /data/models (system_u:object_r:container_file_t:s0:c1,"
            "c2); run `mkdir -p /data/models && semanage fcontext",
            labelled({"/data/models": "system_u:object_r:container_file_t:s0:c1,c2"}),
            {"models_dir": "/data/models"},
            contained,
        ),
        Trigger(
            f"SELinux keeps its workers from reading {NAS} (system_u:object_r:dosfs_t:s0); mount what it lies on with "
            "the option `context=system_u:object_r:container_ro_file_t:s0` there",
            labelled({NAS: "system_u:object_r:dosfs_t:s0"}),
            {"models_dir": NAS},
            contained,
        ),
        Trigger(
            "SELinux keeps its workers from reading /data/models (system_u:object_r:default_t:s0); run "
            "`semanage fcontext",
            {
                **labelled({"/data/models": "system_u:object_r:default_t:s0"}),
                "paths": {"/data/models": {"kind": "directory"}},
            },
            {"models_dir": "/data/models"},
            contained,
        ),
        Trigger(
            "SELinux keeps its workers from reading /var/lib/rbee/models (system_u:object_r:var_lib_t:s0)",
            {
                **labelled({"/var/lib/rbee/models": "system_u:object_r:var_lib_t:s0"}),
                "programs": {"podman": "5.4.2", "newuidmap": "", "newgidmap": "", "pasta": ""},
            },
            changed=without_root,
        ),
    ],
    "podman-version": [
        Trigger("Podman 4.5.1 is older than 4.6, the oldest", {"programs": {"podman": "4.5.1"}}, changed=contained),
        Trigger("its Podman does not say its version; run `pod", {"programs": {"podman": ""}}, changed=contained),
    ],
    "netavark-version": [
        Trigger(
            "netavark 1.6.0 is older than 1.7, and gives workers a way out of their network; upgrade the host to "
            "Debian 13, Ubuntu 26.04 or newer, or write worker_runtime='process'",
            networks("netavark", "1.6.0"),
            changed=contained,
        ),
        Trigger(
            "netavark 1.4.0 is older than 1.7, and",
            networks("netavark", "1.4.0", newuidmap="", newgidmap="", pasta=""),
            changed=without_root,
        ),
        Trigger(
            "netavark 1.4.0 is older than 1.7, and",
            {**networks("netavark", "1.4.0", newuidmap="", newgidmap="", pasta=""), "engine": None},
            changed=without_root,
        ),
        Trigger(
            "its Podman makes networks by cni, which gives workers a way out of theirs; have it use netavark",
            networks("cni", ""),
            changed=contained,
        ),
        *(
            Trigger(
                "its Podman does not say which netavark makes its networks; run `podman info` there",
                networks(backend, ""),
                changed=contained,
            )
            for backend in ("netavark", "")
        ),
    ],
    "podman-info": [
        Trigger(
            "`podman info` fails there or takes longer than 20 s, so it is not known which netavark makes its "
            "networks; run it there, mend what it says and try again",
            silent(),
            changed=contained,
        ),
        Trigger(
            "`podman info` fails there",
            silent("docker"),
            changed=contained,
        ),
        Trigger("`podman info` fails there", silent("podman", ""), changed=housed),
    ],
    "podman-info-later": [
        Trigger(
            "`podman info` fails there or takes longer than 20 s, so it is not known which netavark makes its "
            "networks; run it there and mend what it says",
            silent("", "podman"),
            changed=contained,
        ),
    ],
    "podman-advised": [
        Trigger("Podman 4.9.3 is older than 5.0, of a line", {"programs": {"podman": "4.9.3"}}, changed=contained)
    ],
    "docker-version": [
        Trigger("Docker 24.0.7 is older than 25.0 and cannot", {"programs": {"docker": "24.0.7"}}, changed=in_docker)
    ],
    "container-runtimes": [
        Trigger(
            f"{name} {have} is older than {fixed}, before which",
            {"programs": {"docker": "28.0", name: have}},
            {},
            in_docker,
        )
        for name, have, fixed in (
            ("crun", "1.21", "1.30"),
            ("runc", "1.1.15", "1.2.8"),
            ("runc", "1.2.7", "1.2.8"),
            ("runc", "1.3.2", "1.3.3"),
        )
    ],
    "rootless-tools": [
        Trigger(
            "it has no newuidmap, newgidmap and pasta, without which Podman needs root; install the packages",
            {"programs": {"podman": "5.4.2"}, "os_id": "arch"},
            changed=without_root,
        ),
        Trigger(
            "it has no pasta, without which Podman needs root",
            {"programs": {"podman": "5.4.2", "newuidmap": "", "newgidmap": ""}, "os_id": "arch"},
            changed=without_root,
        ),
    ],
    "rootless-namespaces": [
        Trigger(
            "its kernel gives users without rights no user namespaces, without which Podman needs root; set kernel.",
            {"userns": False},
            changed=without_root,
        )
    ],
    "rootless-bus": [
        Trigger("its users have no bus to their own service manager", {"user_bus": False}, changed=without_root)
    ],
}
