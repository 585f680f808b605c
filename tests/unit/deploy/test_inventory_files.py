"""Inventory files as users run them: by the real pyinfra command, in a process of its own."""

import ast
import dataclasses
import json
import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from rbee_deploy.inventory import External, Host, Model, Site, Store

ROOT = Path(__file__).resolve().parents[3]
EXAMPLE = ROOT / "inventories" / "example.py"
PYINFRA = Path(sys.executable).with_name("pyinfra")
HEAD = "from rbee_deploy.inventory import fleet, host, model\n"

WRONG = {
    "unknown field": ("queen, hives = fleet(hosts=[host('a', quen=True)])", "host 'a': unknown field 'quen'; did you"),
    "wrong value": (
        "queen, hives = fleet(hosts=[host('a', ssh_port=0)])",
        "host 'a': ssh_port is 0: it must be a whole",
    ),
    "no queen": (
        "queen, hives = fleet(hosts=[host('a')])",
        "fleet 'rbee': no host is the queen; add queen=True to one",
    ),
    "no field name": ("queen, hives = fleet('f', [host('a')])", "fleet 'f': fields are given by name"),
}


def run_pyinfra(*arguments: str) -> "subprocess.CompletedProcess[str]":
    line = [str(PYINFRA), *arguments]
    return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_inventory_ends_in_a_sentence(case: str, tmp_path: Path) -> None:
    """A wrong inventory file ends whatever runs it, by an exit that Python prints as one sentence."""
    line, sentence = WRONG[case]
    inventory = tmp_path / "inventory.py"
    inventory.write_text(HEAD + line + "\n")
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(inventory))
    assert str(ended.value.code).startswith(sentence)


@pytest.mark.slow
def test_pyinfra_prints_the_sentence_and_nothing_more(tmp_path: Path) -> None:
    """A wrong inventory ends `pyinfra INVENTORY rbee_deploy/deploy.py` with one sentence, status 1 and no traceback."""
    line, sentence = WRONG["unknown field"]
    inventory = tmp_path / "inventory.py"
    inventory.write_text(HEAD + line + "\n")
    done = run_pyinfra(str(inventory), "rbee_deploy/deploy.py", "--yes")
    said = [row for row in done.stderr.splitlines() if row and not row.startswith("-->")]
    assert done.returncode == 1
    assert len(said) == 1
    assert said[0].startswith(sentence)
    assert "Traceback" not in done.stdout + done.stderr


@pytest.fixture
def without_its_secret(tmp_path: Path) -> Path:
    """Return an inventory of this machine whose fleet asks for a variable that is not set."""
    inventory = tmp_path / "inventory.py"
    inventory.write_text(
        "from rbee_deploy.inventory import fleet, host, secret_env\n"
        "queen, _ = fleet(hosts=[host('a', queen=True)], object_store=secret_env('RBEE_NOT_SET'),"
        f" secrets_dir={str(tmp_path / 'secrets')!r})\n"
        "queen = [('@local', queen[0][1])]\n"
    )
    return inventory


MISSING = "fleet 'rbee': object_store: environment variable RBEE_NOT_SET is not set; export it before the deploy"


@pytest.mark.slow
def test_a_secret_that_is_missing_gets_one_sentence(without_its_secret: Path) -> None:
    """What ends a run before it began is said without pyinfra's prefix and our lines of code, with status 1."""
    done = run_pyinfra(str(without_its_secret), "rbee_deploy/deploy.py", "--dry")
    assert done.returncode == 1
    assert MISSING in done.stderr.splitlines()
    assert not [word for word in ("Traceback", "pyinfra error", "here.py") if word in done.stdout + done.stderr]


@pytest.mark.slow
def test_a_run_that_did_not_begin_is_json_too(without_its_secret: Path) -> None:
    """Standard output stays a document when a secret is missing; the sentence is there and on standard error."""
    program = str(Path(sys.executable).with_name("rbee-deploy"))
    line = [program, "apply", "--json", "-i", str(without_its_secret)]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    found = json.loads(done.stdout)
    assert (found["command"], found["problem"], found["result"]) == ("apply", MISSING, {})
    assert MISSING in done.stderr.splitlines()


@pytest.mark.slow
def test_a_mistake_in_python_is_named_by_its_line(tmp_path: Path) -> None:
    """A misspelled name in an inventory ends rbee-deploy with one sentence that says where, and status 1."""
    inventory = tmp_path / "inventory.py"
    inventory.write_text("\nqueen = hosst('a')\n")
    program = str(Path(sys.executable).with_name("rbee-deploy"))
    done = subprocess.run([program, "plan", "-i", str(inventory)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"{inventory}, line 2: NameError: name 'hosst' is not defined\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["plan", "-i", "none.py"], "there is no inventory file none.py; give one by -i"),
        (["plan", "-i", "."], ". is a folder; give the inventory file in it by -i"),
        (["plan"], "the following arguments are required: -i/--inventory; see rbee-deploy plan --help"),
        (["plan", "-i", "x.py", "--all"], "there is no option --all; see rbee-deploy plan --help"),
        (["plan", "-i", "x.py", "all"], "unrecognized arguments: all; see rbee-deploy plan --help"),
        (["images", "--ouy", "x"], "there is no option --ouy; did you mean --out; see rbee-deploy images --help"),
        (
            ["plan", "--inventry=x"],
            "there is no option --inventry; did you mean --inventory; see rbee-deploy plan --help",
        ),
    ],
)
def test_a_wrong_command_line_is_one_sentence(words: list[str], sentence: str, tmp_path: Path) -> None:
    """What is wrong with the words after rbee-deploy is said as any other mistake, without the usage."""
    program = str(Path(sys.executable).with_name("rbee-deploy"))
    done = subprocess.run([program, *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", sentence + "\n")


@pytest.mark.slow
def test_pyinfra_loads_the_example() -> None:
    """The example is a legal pyinfra inventory as it stands."""
    done = run_pyinfra(str(EXAMPLE), "debug-inventory")
    assert done.returncode == 0
    assert '"fleet": "example"' in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("call", "declared"), [("host", Host), ("model", Model), ("fleet", Site), ("store", Store), ("external", External)]
)
def test_the_example_shows_every_field(call: str, declared: type) -> None:
    """Each field of host, model, store, external and fleet stands in inventories/example.py."""
    calls = [node for node in ast.walk(ast.parse(EXAMPLE.read_text())) if isinstance(node, ast.Call)]
    named = [node for node in calls if isinstance(node.func, ast.Name) and node.func.id == call]
    shown = {keyword.arg for node in named for keyword in node.keywords}
    positional = {"name"} if named[0].args else set()
    assert {field.name for field in dataclasses.fields(declared)} == shown | positional


def test_the_example_is_commented() -> None:
    """At least one line in four of the example is a comment for its reader."""
    lines = [line.strip() for line in EXAMPLE.read_text().splitlines() if line.strip()]
    assert 4 * sum(line.startswith("#") for line in lines) >= len(lines)


def test_the_example_has_a_value_for_every_field() -> None:
    """Executed, the example gives one queen that is a hive too, and a second hive."""
    names = runpy.run_path(str(EXAMPLE))
    assert ([name for name, _ in names["queen"]], [name for name, _ in names["hives"]]) == (["box1"], ["box1", "box2"])


def test_the_inventories_of_the_readme_are_legal(tmp_path: Path) -> None:
    """Each whole inventory that the README shows loads as it stands there, given the model file that it names."""
    model = tmp_path / "smollm2.gguf"
    model.touch()
    blocks = re.findall(r"^ *```python\n(.*?)^ *```", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)
    inventories = [textwrap.dedent(block) for block in blocks if "fleet(" in block]
    assert len(inventories) == 2
    for number, text in enumerate(inventories):
        inventory = tmp_path / f"inventory{number}.py"
        inventory.write_text(text.replace("/srv/models/smollm2.gguf", str(model)))
        assert runpy.run_path(str(inventory))["hives"]
