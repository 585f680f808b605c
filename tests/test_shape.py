"""The shape of the code: sizes, import directions, words that must not be there."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = sorted([*ROOT.glob("rbee_runtime/**/*.py"), *ROOT.glob("rbee_deploy/**/*.py")])
PURE = {
    "rbee_deploy": {
        *("errors", "inventory", "site", "_fields", "_invariants", "modes", "accounts", "configs", "digest", "render"),
        *("preflight", "host_facts", "secrets", "authority", "operator_tls", "private_files", "_x509", "rollout"),
        *("stores", "devices", "model_credentials", "externals", "adoption", "packages", "pythons", "checks_page"),
        "exports",
    },
}
DRAWERS = {"utils.py", "util.py", "helpers.py", "common.py", "misc.py"}
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def _concept(path: Path) -> str:
    """Return the module or package right under the top one."""
    return Path(path.relative_to(ROOT).parts[1]).stem


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True, text=True).stdout
    return [ROOT / name for name in listed.split("\0") if name and (ROOT / name).is_file()]


@pytest.mark.parametrize("path", PRODUCT, ids=relative)
def test_a_file_holds_one_concept(path: Path) -> None:
    """No product file is longer than 400 lines or named like a drawer."""
    assert path.name not in DRAWERS
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", PRODUCT, ids=relative)
def test_functions_are_short(path: Path) -> None:
    """No function is longer than 60 lines."""
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1} lines)"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize("path", [p for p in PRODUCT if "rbee_runtime" in p.parts], ids=relative)
def test_the_runtime_never_imports_the_deployer(path: Path) -> None:
    """What runs on hosts does not know the tool that put it there."""
    assert not [name for name in imports(path) if name.split(".")[0] in {"rbee_deploy", "pyinfra"}]


@pytest.mark.parametrize(
    "path", [p for p in PRODUCT if "rbee_deploy" in p.parts and _concept(p) in PURE["rbee_deploy"]], ids=relative
)
def test_pure_modules_import_no_effects(path: Path) -> None:
    """The inventory, its rendering and its checks run without pyinfra."""
    banned = {"pyinfra", "pyinfra_cli", "rbee_deploy.operations", "rbee_deploy.facts", "rbee_deploy.stages"}
    assert not [name for name in imports(path) if name in banned or name.split(".")[0].startswith("pyinfra")]


def test_no_assert_in_product_code() -> None:
    """A check that `python -O` removes is not a check."""
    guilty = [
        relative(path)
        for path in PRODUCT
        if any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(path.read_text())))
    ]
    assert guilty == []


FORBIDDEN = {
    # Written with a dot class, so that this file does not match itself.
    "a package registry's host": r"pypi[.]org|pythonhosted[.]org|deb[.]debian[.]org|registry[.]npmjs[.]org",
    "an unfinished mark": r"\b(?:TOD[O]|FIXM[E]|XX[X]|HAC[K])\b|NotImplemented(?:Error)\b",
}


@pytest.mark.parametrize("what", FORBIDDEN)
def test_words_that_must_not_be_there(what: str) -> None:
    """Tracked files name no registry host and leave nothing unfinished."""
    texts = {relative(path): path.read_text(errors="ignore") for path in tracked()}
    assert [name for name, text in texts.items() if re.search(FORBIDDEN[what], text)] == []
