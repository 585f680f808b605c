"""Command lines of all programs but the keeper's: what is wrong with one is said in one sentence."""

import argparse
from typing import Any, NoReturn

from rbee_runtime.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Reports a wrong option as any other wrong setting, by ConfigError; commands below it do the same."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known where it is typed: argparse has the first parser do it, whose help is no help."""
        known, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with what is wrong and where help is."""
        raise ConfigError(f"{message}; see {self.prog} --help")
