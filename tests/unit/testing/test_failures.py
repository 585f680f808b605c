"""A failure is told when it happens, whole at first and by name when it comes again."""

from typing import Any

import pytest

from tests.failures import LINES, AtOnce


class _Screen:
    def __init__(self) -> None:
        self.text = ""

    def write_line(self, line: str, **_markup: Any) -> None:
        self.text += line + "\n"


def _told(*reports: pytest.TestReport) -> str:
    screen, plugins = _Screen(), pytest.PytestPluginManager()
    plugins.register(screen, "terminalreporter")
    plugin = AtOnce(plugins)
    for report in reports:
        plugin.pytest_runtest_logreport(report)
    return screen.text


def _report(name: str, outcome: Any, text: str) -> pytest.TestReport:
    return pytest.TestReport(name, (name, 1, name), {}, outcome, text or None, "setup")


def test_a_test_that_passes_says_nothing() -> None:
    """Success and skips leave the line of dots alone."""
    assert _told(_report("a", "passed", ""), _report("b", "skipped", "no root")) == ""


def test_a_failure_is_told_with_its_end() -> None:
    """Where, which test and the last lines, not all."""
    told = _told(_report("a", "failed", "\n".join(f"line {n}." for n in range(LINES + 1))))
    assert "setup failed: a" in told
    assert "line 0." not in told
    assert "line 1." in told
    assert f"line {LINES}." in told


def test_the_same_failure_is_told_once_and_each_test_by_name() -> None:
    """One broken fixture of a module does not fill the screen."""
    told = _told(_report("a", "failed", "no host"), _report("b", "failed", "no host"))
    assert told.count("no host") == 1
    assert "setup failed: a" in told
    assert "setup failed: b" in told
