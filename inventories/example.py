"""Every field of an inventory once; copy what you need, everything but names, addresses and sources has a default.

pyinfra inventories/example.py rbee_deploy/deploy.py
"""

from rbee_deploy.inventory import Rollout, command_engine, each_host, external, fleet, host, model, secret_env, store

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
    # On this machine: container images, made by `rbee-deploy images --out ~/rbee-images`; only for hosts that run some.
    images="~/rbee-images",
    # Registries that hosts ask for those images before the one that they were pushed to, as host:port or host/path.
    image_mirrors=[],
    # Networks that clients may connect from, where the queen's host has a firewall; left out, everybody may.
    clients=["10.0.0.0/8", "192.0.2.0/24"],
    # Web pages that may use the API from a browser (CORS), as scheme, host and port; left out, none may.
    web_pages=["https://chat.example.org"],
    # Seconds that open streams may go on when the queen restarts.
    drain_seconds=180,
    # Seconds that a request waits in line for a free slot, that a worker may take to begin an answer (one that is not
    # streamed has nothing before its end), and that it may then be silent; after that another worker is tried, or the
    # client is told.
    queue_wait_seconds=60,
    first_byte_seconds=600,
    silence_seconds=120,
    # What queen and hives write to the journal: "lines" (level event=… name=value …) or "json", an object each.
    log_format="lines",
    # How many hosts receive releases, engines and models at a time.
    uploads=5,
    # How many hosts are changed at a time, after the queen: first one, and if that works the others in batches. A batch
    # is a number of hosts or a share of them; the first host that fails is put back, and the rest stay as they are.
    # undo="run" takes those back as well that the same run had changed before. Workers are replaced by the queen, one
    # of a model at a time; a run waits so many seconds for that, and takes itself back if they do not come up.
    rollout=Rollout(canary=1, batch="25%", undo="host", workers_seconds=1800),
    # What hives may need to fetch models, each only if you give it. For secrets of several lines write
    # secret_file("~/.config/rbee/object-store.env") or secret_command(["pass", "show", "object-store"]). For what sops
    # or age encrypted the command is ["sops", "decrypt", FILE] or ["age", "--decrypt", "-i", KEY, FILE].
    # A token of the Hugging Face hub, for gated and private models.
    hf_token=None,
    # Lines NAME=value by the names of the providers' own tools: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION
    # and, for a store of your own, AWS_ENDPOINT_URL; GOOGLE_SERVICE_ACCOUNT_KEY; AZURE_STORAGE_ACCOUNT_NAME, …_KEY.
    object_store=None,
    # What `podman login` writes, for models from oci:// and for images that hosts pull.
    registry_auth=None,
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
            # How queen and hive run: "bare", a virtual environment and systemd units, or "container", images run by
            # Podman's Quadlet or as units of Docker; then workers are containers as well.
            mode="bare",
            # How workers run: "process", each a unit of systemd, or "container", each a container without a way out of
            # its network, of an image that brings its engine. A change of this word ends the host's workers first.
            worker_runtime="process",
            # What runs containers: "podman" or "docker". Setup installs it where it is missing.
            engine="podman",
            # True has Podman run as a user of its own instead of root, which setup makes; for containers only.
            rootless=False,
            # With mode="container": "bare" has the host run bare if it cannot run in containers, with a warning.
            fallback=None,
            # Your own words about the host; models may ask for them.
            labels={"gpu": "rtx4090", "rack": "office"},
            # What is installed to run models with; where workers are containers, their images have it.
            engines=["llama-cpp"],
            # Where model files lie: any big disk.
            models_dir="/var/lib/rbee/models",
            store=store(
                # The most that all models may take, and what stays free of the disk. Beyond that, models that nothing
                # uses go, the least recently used first. quota=None: no limit.
                quota="500 GiB",
                spare="5 GiB",
                # True: fetch from other hives only, never from outside.
                offline=False,
                # A mirror of the hub, such as "https://hub.example"; left out, the public one.
                hf_endpoint=None,
                # Hosts (or host:port) that models may come from without TLS or at private addresses.
                plain_http_hosts=["mirror.lan"],
                # Hugging Face caches on this host; models in them are used where they lie. Others must be able
                # to read their files.
                hf_caches=["/home/ops/.cache/huggingface"],
                # True: also weights that can run programs when they are loaded.
                allow_pickle=False,
            ),
            # Only to try a fleet out: GPUs that are not there, as in devices=[simulated("gpu0", memory="24 GiB")], or
            # those of another host, as in devices=recorded("~/h100.json"). Left out, what the host has.
            devices=[],
            # This host's own, instead of the fleet's.
            hf_token=None,
            object_store=None,
            registry_auth=None,
            # Clients connect to queen_port, hives to link_port, the queen to hive_port and to the workers' ports.
            queen_port=8500,
            link_port=8501,
            hive_port=8600,
            worker_ports=(9000, 9099),
            # The most that one worker may take of this host's memory, such as "48 GiB"; one that wants more is ended
            # and shown as out of memory. None is nine tenths of it. Memory of GPUs is not counted here.
            worker_memory=None,
            # Close these ports, and no other, to all but those who need them: "nftables", or "ufw" or "firewalld" where
            # the host has that. Left out, the firewall of the host stays as it is.
            firewall="nftables",
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
            # file: and the absolute path of a GGUF file on this machine. Hosts fetch everything else themselves:
            # hf:org/repo, hf:org/repo@revision:*Q4_K_M.gguf, https://host/model.gguf#sha256=…, s3://bucket/key.gguf,
            # gs://…, az://…, oci://registry/repository:tag, and http://… from hosts in plain_http_hosts.
            # An image holds one model file, under models/ in a layer that is plain or compressed by gzip (zstd takes
            # Python 3.14 on the host); a model of several files is pushed as an artefact with a layer for each.
            source="file:/srv/models/SmolLM2-135M-Instruct.Q4_1.gguf",
            # False: do not copy the file to the hosts, it already lies there under the same path. True, for what hosts
            # fetch themselves: they do so before anything is restarted, and not while requests wait for it.
            preseed=False,
            # True: its files stay on disk when room is needed for others, as long as the inventory says so. What a
            # person pinned on a host goes only by a person.
            pin=False,
            # Left out, it follows from the source.
            engine="llama-cpp",
            # Workers: a number, (minimum, maximum), or each_host for one on every host that fits. The minimum is kept
            # up; with 0 the model is loaded when somebody asks for it. While requests wait there are more, up to the
            # maximum, as far as there is room that nobody has.
            replicas=(1, 2),
            # Seconds without need of a worker after which it goes, down to the minimum; 0: never. Sooner, but not with
            # a request and not in its first 30 s, where another model that somebody asks for needs its room.
            idle_ttl=600,
            # True: what is loaded stays loaded, whoever else needs room. (To keep files on disk: pin.)
            keep_loaded=False,
            # Cards that share one worker: a number, or 0 for as many as it takes. vLLM takes cards that are alike.
            gpus=0,
            # True: it may run on the processor of a host that has cards. On a host without cards it always may.
            cpu=False,
            # Of the hosts that have room: "spread" takes the emptiest, "pack" the fullest.
            placement="spread",
            # No worker on a host with one of these models; its own name keeps its workers on different hosts.
            apart_from=["smollm2:135m"],
            # True: when a worker dies in the middle of a stream, another one goes on with the text so far.
            continues=False,
            # Tokens per conversation, and conversations at a time in one worker.
            context=8192,
            slots=4,
            # Where it may run: these hosts, and only where all these labels hold. Left out, everywhere.
            hosts=["box1", "box2"],
            labels={"gpu": "rtx4090"},
            # Seconds that a request waits for a model that is still loading.
            load_wait=300,
            # Settings of the engine; those of llama-cpp are in docs/engines.md.
            options={"threads": 8},
        ),
        # A model without weights, to try a fleet out.
        model("echo", source="fake:tokens_per_s=50,tokens=20", replicas=each_host),
    ],
    # Servers that are there already and speak OpenAI's API: llama-server, vLLM, Ollama. The queen sends them requests
    # as she does to workers; rbee does not start, stop or update them. `rbee-deploy adopt` finds them on a host.
    external=[
        external(
            # Shows in logs and, with the model, in `rbee-keeper workers`.
            "box2-ollama",
            # Where the queen reaches it: http:// or https://, with or without the /v1 of its clients.
            url="http://192.0.2.11:11434",
            # Its models: the name that your clients ask for, and its own. A list where both are the same.
            models={"llama3": "llama3:latest"},
            # Requests that it gets at a time, all its models together.
            slots=4,
            # Only if it asks for an API key; clients never need it. A new key restarts the queen, which cuts no answer.
            key=secret_env("BOX2_OLLAMA_KEY"),
            # For https:// with a certificate of your own authority: its PEM file on this machine.
            ca_file=None,
        ),
    ],
    # Further names that clients may ask for, each with the model that answers; its answers say its own name.
    aliases={"gpt-4o-mini": "smollm2:135m"},
    # Servers of OpenAI's API that hives start for a model, beside our own engines: docs/servers.md. A host names them
    # in engines, a model in engine; the program has to be on the host.
    command_engines=[
        command_engine(
            "sglang",
            command=["/opt/sglang/bin/serve", "--model", "{folder}", "--port", "{port}"],
            # Yours, to tell one command from the next; a change starts workers anew.
            version="1",
            # Answers 200 once the model is loaded.
            ready="/health",
            environment={"SGLANG_API_KEY": "{key}"},
            # The server's own name for its model, where it takes none.
            model=None,
        ),
    ],
)
