"""Say what failed when it failed: a run that is cut off, or takes half an hour, else keeps it for its summary."""

import pytest

LINES = 25


class AtOnce:
    """Print a test's name and the end of its failure, below the line of dots; a failure seen before by name alone."""

    def __init__(self, plugins: pytest.PytestPluginManager) -> None:
        self._plugins = plugins
        self._seen: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Print `report` if it tells of a failure; what has no terminal, as a process of xdist, leaves it to others."""
        terminal = self._plugins.get_plugin("terminalreporter")
        if terminal is None or not report.failed:
            return
        terminal.write_line(f"\n{report.when} failed: {report.nodeid}", red=True)
        text = report.longreprtext
        if text not in self._seen:
            self._seen.add(text)
            terminal.write_line("\n".join(text.splitlines()[-LINES:]))
