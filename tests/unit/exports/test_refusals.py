"""What cannot be exported is refused in one sentence that names it and says what to do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rbee_deploy.errors import ExportError
from rbee_deploy.exports import write
from rbee_deploy.exports.write import Substrate
from rbee_deploy.inventory import external, host, model
from rbee_deploy.site import Host, Site
from tests.unit.deploy.sites import site_of, write_model
from tests.unit.exports.sites import three_hosts, wanted

NUMBER = (
    "host 'box1': the label 'nvidia.com/gpu' is '{}': write the number of its GPUs, from '1' to '64', or drop the label"
)


def box(name: str = "box1", **fields: Any) -> Host:
    return host(name, address=f"{name}.example", **fields)


def queen(**fields: Any) -> Host:
    return box(queen=True, **fields)


CASES: dict[str, tuple[Callable[[], Site], str]] = {
    "no number": (
        lambda: site_of(queen(labels={"nvidia.com/gpu": "all"})),
        NUMBER.format("all"),
    ),
    "no GPU": (
        lambda: site_of(queen(labels={"nvidia.com/gpu": "0"})),
        NUMBER.format("0"),
    ),
    "same names": (
        lambda: site_of(queen(), box("gpu.1"), box("GPU-1")),
        "hosts 'gpu.1' and 'GPU-1' would both be rbee-hive-gpu-1 in an export; rename one of them",
    ),
    "long name": (
        lambda: site_of(queen(), host("g" * 41, address="192.0.2.3")),
        f"host '{'g' * 41}': it would be rbee-hive-{'g' * 41} in an export, more than 50 letters; shorten it",
    ),
    "folder": (
        lambda: site_of(queen(), models=(model("m", source="file:/m.gguf", preseed=False),)),
        (
            "model 'm': it lies in '/', which no container can be shown: move it to a folder whose path has letters, "
            "digits and ._@+- only"
        ),
    ),
    "loopback": (
        lambda: site_of(queen(), external=[external("o", url="http://127.0.0.2:1", models=["m"])]),
        (
            "external 'o': 127.0.0.2 is the queen's own container in an export; write an address under which other "
            "machines reach the server"
        ),
    ),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("substrate", [Substrate.COMPOSE, Substrate.KUBERNETES])
def test_what_cannot_run_there_is_refused(case: str, substrate: Substrate) -> None:
    """An inventory is not exported to something that would never work."""
    build, sentence = CASES[case]
    with pytest.raises(ExportError) as refused:
        write.stack_of(build(), wanted(substrate))
    assert str(refused.value) == sentence


def test_a_model_of_this_machine_is_refused(tmp_path: Path) -> None:
    """What a deploy would copy is nothing that an export could bring to a volume."""
    source = write_model(tmp_path)
    site = site_of(queen(), models=(model("m", source=source),))
    with pytest.raises(ExportError) as refused:
        write.stack_of(site, wanted(Substrate.KUBERNETES))
    path = source.removeprefix("file:")
    assert str(refused.value) == (
        f"model 'm': '{path}' is a file on this machine, and an export copies none: give a source that hives fetch "
        "(hf:, https:, s3:, oci: …), or write preseed=False and have the file under the same path on each machine "
        "that runs its hives"
    )


def test_a_pod_has_one_hive() -> None:
    """Of several a person says which, and the pod's fleet has its models and no others."""
    with pytest.raises(ExportError) as refused:
        write.stack_of(three_hosts(), wanted(Substrate.POD))
    assert str(refused.value) == "a pod has one hive and the inventory has 2 (GPU.one, gpu2): name one by --hive"
    made = write.stack_of(three_hosts(), wanted(Substrate.POD, hive="GPU.one"))
    assert [part.name for part in made.parts] == ["rbee-queen", "rbee-hive-gpu-one"]
    assert {each.name: each.hosts for each in made.site.models} == {"hub": ("GPU.one",), "echo": ()}


@pytest.mark.parametrize(
    ("substrate", "hive", "sentence"),
    [
        (Substrate.POD, "gpu3", "no hive of the inventory is called 'gpu3'; did you mean 'gpu2'"),
        (Substrate.COMPOSE, "gpu2", "--hive goes with pod: compose has every hive of the inventory"),
    ],
)
def test_a_hive_is_one_of_a_pod(substrate: Substrate, hive: str, sentence: str) -> None:
    """A name of nobody, and one where there is no choice, are refused."""
    with pytest.raises(ExportError) as refused:
        write.stack_of(three_hosts(), wanted(substrate, hive=hive))
    assert str(refused.value) == sentence
