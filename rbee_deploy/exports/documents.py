"""Documents of YAML as people read them: keys in their order, files within files as blocks of lines; pure."""

from collections.abc import Iterable
from typing import Any

import yaml

HEADER = "# Written by rbee-deploy export from the inventory; the next export writes it anew.\n"


class _Dumper(yaml.SafeDumper):
    """Writes texts of several lines as blocks, and a value that is there twice in full."""

    def ignore_aliases(self, data: Any) -> bool:  # noqa: ARG002 - the same for all
        return True


def _string(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _string)


def text(documents: Iterable[Any], *, header: str = HEADER) -> str:
    """Return the text of one file."""
    return header + yaml.dump_all(
        list(documents), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120, default_flow_style=False
    )
