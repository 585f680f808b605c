"""Every field of an inventory once; copy what you need, everything but names, addresses and sources has a default.

pyinfra inventories/example.py rbee_deploy/deploy.py
"""

from rbee_deploy.inventory import each_host, fleet, host, model, secret_env

queen, hives = fleet(
    # Part of every certificate; two fleets of one operator need two names.
    name="example",
    # The rbee version on every host; left out, it is the one that you deploy with.
    version="0.1.0",
    # What OpenAI clients connect to: "fleet-tls" (a certificate of the fleet's own authority), "plain-http", or your
    # own certificate as TlsPaths(certificate="~/tls/chat.pem", key="~/tls/chat.key").
    client_endpoint="fleet-tls",
    # On this machine: the fleet's authority and the first API key. Left out, ~/.config/rbee/<name>. Back it up.
    secrets_dir="~/.config/rbee/example",
    # Seconds that open streams may go on when the queen restarts.
    drain_seconds=180,
    hosts=[
        host(
            # Shows in certificates, logs and `rbee-keeper`.
            "box1",
            # What SSH connects to; left out, the name (which may be an alias of your SSH configuration).
            address="192.0.2.10",
            # Where other hosts reach it, if that is not the address.
            advertise="10.0.0.10",
            # One host of the fleet is the queen: the API endpoint, which decides what runs where.
            queen=True,
            # It also runs workers; hive=False makes a pure control host.
            hive=True,
            # "bare": a virtual environment and systemd units.
            mode="bare",
            # Your own words about the host; models may ask for them.
            labels={"gpu": "rtx4090", "rack": "office"},
            # What is installed to run models with.
            engines=["llama-cpp"],
            # Where model files lie: any big disk.
            models_dir="/var/lib/rbee/models",
            # Clients connect to queen_port, hives to link_port, the queen to hive_port and to the workers' ports.
            queen_port=8500,
            link_port=8501,
            hive_port=8600,
            worker_ports=(9000, 9099),
            # How SSH logs in; left out, as your SSH configuration says. The user needs sudo.
            ssh_user="ops",
            ssh_port=22,
            # Files on this machine: ssh_key="~/.ssh/fleet", ssh_config_file="~/.ssh/fleet.conf" (jump hosts).
            ssh_key=None,
            ssh_config_file=None,
            ssh_known_hosts_file=None,
            # "strict" refuses a host that is not in known_hosts; "accept-new" takes its key at first sight.
            ssh_host_keys="accept-new",
            # Only if sudo asks for a password. Never the password itself: secret_env, secret_file or secret_command.
            sudo_password=secret_env("BOX1_SUDO_PASSWORD"),
        ),
        # Most hosts need no more than this. Adding one is a line here and the same command.
        host("box2", address="192.0.2.11", labels={"gpu": "rtx3090"}),
    ],
    models=[
        model(
            # The name that clients ask for: letters, digits, '.', '_', '-', one '/' and one ':tag'.
            "smollm2:135m",
            # file: and the absolute path of a GGUF file on this machine.
            source="file:/srv/models/SmolLM2-135M-Instruct.Q4_1.gguf",
            # False: do not copy the file to the hosts, it already lies there under the same path.
            preseed=False,
            # Left out, it follows from the source.
            engine="llama-cpp",
            # Workers that are kept up: a number, (minimum, maximum), or each_host for one on every host that fits.
            replicas=(1, 2),
            # Tokens per conversation, and conversations at a time in one worker.
            context=8192,
            slots=4,
            # Where it may run: these hosts, and only where all these labels hold. Left out, everywhere.
            hosts=["box1", "box2"],
            labels={"gpu": "rtx4090"},
            # Seconds that a request waits for a model that is still loading.
            load_wait=300,
            # Settings of the engine.
            options={"threads": 8},
        ),
        # A model without weights, to try a fleet out.
        model("echo", source="fake:tokens_per_s=50,tokens=20", replicas=each_host),
    ],
)
