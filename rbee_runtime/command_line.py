"""Command lines of all programs but the keeper's: what is wrong with one is said in one sentence."""

import argparse
import difflib
import re
import sys
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

from rbee_runtime.errors import ConfigError

_NO_OPTION = re.compile(r"-?|-[\d.].*|[^-].*|.* .*", re.DOTALL)
"""What argparse takes for a value: a number below zero, and whatever has a space in it."""


class Parser(argparse.ArgumentParser):
    """Reports a wrong option as any other wrong setting, by ConfigError; commands below it do the same."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what is not known where it is typed: argparse has the first parser do it, whose help is no help.

        Options come first: what a misspelt one was to say is missing, and that is not what has to be put right.
        """
        words = sys.argv[1:] if args is None else list(args)
        for wrong in self._misspelt(words):
            near = difflib.get_close_matches(wrong, self._option_string_actions, n=1)
            hint = f"; did you mean {near[0]}" if near else ""
            self.error(f"there is no option {wrong}{hint}")
        known, unknown = super().parse_known_args(words, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return known, unknown

    def _misspelt(self, words: Sequence[str]) -> Iterator[str]:
        """Yield the words that look like options and are none; those behind a command are for its own parser."""
        for word in words:
            if word == "--" or (self._subparsers is not None and not word.startswith("-")):
                return
            if not _NO_OPTION.fullmatch(word) and not self._is_option(word):
                yield word.partition("=")[0]

    def _is_option(self, word: str) -> bool:
        """Say whether a word is an option, the beginning of a long one, or a short one with what belongs to it."""
        name = word.partition("=")[0]
        if not name.startswith("--"):
            return any(known == name or known == name[:2] for known in self._option_string_actions)
        return any(known.startswith(name) for known in self._option_string_actions)

    def error(self, message: str) -> NoReturn:
        """Raise ConfigError with what is wrong and where help is."""
        raise ConfigError(f"{message}; see {self.prog} --help")
