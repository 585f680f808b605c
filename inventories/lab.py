"""The demo's throw-away hosts; edit it as you would edit your own inventory, then run the same command again.

pyinfra inventories/lab.py rbee_deploy/deploy.py
"""

from rbee_deploy.inventory import each_host, fleet, host, model
from tests.lab.inventory import the_lab

_lab = the_lab()

queen, hives = fleet(
    name="lab",
    client_endpoint="plain-http",
    secrets_dir=_lab.secrets_dir,
    hosts=[
        host("queen", address=_lab.queen_address, queen=True, hive=False, **_lab.ssh),
        # gpu1 and every host that is added to the lab.
        *(host(name, address=_lab.addresses[name], **_lab.ssh) for name in _lab.gpu_hosts),
    ],
    models=[
        model("smol", source=f"file:{_lab.model_file}", context=2048, replicas=each_host),
    ],
)
