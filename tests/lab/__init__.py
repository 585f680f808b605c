"""Throw-away real hosts on this machine: systemd as PID 1, sshd, addresses of their own."""

from tests.lab.errors import LabError, LabUnavailableError
from tests.lab.host import LabHost
from tests.lab.images import ensure_image
from tests.lab.lab import Lab
from tests.lab.preconditions import ensure_packages, require_lab

__all__ = ["Lab", "LabError", "LabHost", "LabUnavailableError", "ensure_image", "ensure_packages", "require_lab"]
