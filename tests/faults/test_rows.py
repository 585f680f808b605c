"""The tables of faults themselves: every row has tests, and every test is one that exists."""

import ast

import pytest

from tests.faults.rows import PARTS, ROOT, read

ROWS = {
    "hive": [
        *(f"R{number}" for number in range(1, 9)),
        *(f"C{number}" for number in range(1, 6)),
        *(f"D{number}" for number in range(1, 7)),
        "M8",
    ],
    "containers": [
        "FLEET",
        "RING",
        "AGAIN",
        "IMAGE",
        "BOOT",
        "KILL",
        "ENGINE",
        "OLD",
        "FALL",
        "FULL",
        "PULL",
        "GONE",
        "GUARD",
        "NET",
        "CARDS",
        "LIMITS",
        "UNIFIED",
        "CLOSED",
        "STOP",
        "LAPTOP",
        "EXPORT",
    ],
    "queen": [
        *(f"F{number}" for number in range(1, 14)),
        *(f"M{number}" for number in range(1, 9)),
        "S1",
        "S3",
        "S4",
        "S5",
    ],
    "deploy": [
        "S6",
        "S7",
        "S8",
        "LEASE",
        "DISK",
        "SSH",
        "CLOCK",
        "DEAD",
        "DOWN",
        "DRIFT",
        "UP",
        "DOCS",
        "AIR",
        "ADOPT",
        "DAY",
        "FIREWALL",
        "SECRETS",
        "CROWD",
    ],
}


@pytest.mark.parametrize("part", ROWS)
def test_the_table_has_every_row(part: str) -> None:
    """No fault that was promised is left out, and none has crept in without a promise."""
    assert sorted(read(part)) == sorted(ROWS[part])


@pytest.mark.parametrize(("part", "name"), [(part, name) for part, names in ROWS.items() for name in names])
def test_a_row_has_tests_that_exist(part: str, name: str) -> None:
    """Both runs of a row name at least one test, and each of them is a function of that file."""
    row = read(part)[name]
    assert row.promise.endswith(".")
    for nodes in (row.full, row.short):
        assert nodes
        for node in nodes:
            path, _, function = node.partition("::")
            assert function in functions(path), node


def test_what_make_test_leaves_out_is_in_a_row() -> None:
    """A test that `make test` does not run, or not with every case, is run by `make faults-PART`."""
    rows = {node for part in PARTS for row in read(part).values() for node in row.full}
    files = (path.relative_to(ROOT).as_posix() for path in (ROOT / "tests").rglob("test_*.py"))
    shortened = {
        f"{path}::{name}"
        for path in files
        for name, marks in functions(path).items()
        if name.startswith("test_") and marks & SHORTENED
    }
    assert shortened
    assert shortened <= rows


SHORTENED = {"pytest.mark.full", "pytest.mark.one_of"}


def functions(path: str) -> dict[str, set[str]]:
    """Return the marks of each test function of a file, by name; empty if there is no such file."""
    if not (ROOT / path).is_file():
        return {}
    tree = ast.parse((ROOT / path).read_text())
    kinds = ast.FunctionDef | ast.AsyncFunctionDef
    return {
        node.name: {ast.unparse(mark) for mark in node.decorator_list} | _marks_of_all(tree)
        for node in ast.walk(tree)
        if isinstance(node, kinds)
    }


def _marks_of_all(tree: ast.Module) -> set[str]:
    """Return the marks that a file gives to all of its tests."""
    given = [node.value for node in tree.body if isinstance(node, ast.Assign) and "pytestmark" in ast.unparse(node)]
    return {ast.unparse(mark) for value in given for mark in (value.elts if isinstance(value, ast.List) else [value])}
