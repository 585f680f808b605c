"""Errors of the lab.

LabError
    LabUnavailableError   this machine cannot make hosts; the message names the fix
"""


class LabError(Exception):
    """A host, bridge or image could not be made, changed or removed."""


class LabUnavailableError(LabError):
    """This machine cannot make hosts at all."""
