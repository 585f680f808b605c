"""Command lines of all programs but the keeper's: what is wrong with one is said in one sentence."""

import argparse
from typing import NoReturn

from rbee_runtime.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """Reports a wrong option as any other wrong setting, by ConfigError; commands below it do the same."""

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with what is wrong and where help is."""
        raise ConfigError(f"{message}; see {self.prog} --help")
