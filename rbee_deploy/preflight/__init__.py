"""Pure checks over a host's state before anything changes there: problems, each with its fix."""

from rbee_deploy.host_facts import HostFacts
from rbee_deploy.preflight.access import unreachable
from rbee_deploy.preflight.checks import Check, Needs, Problem, Scope, Severity, Trust
from rbee_deploy.preflight.registry import CHECKS, check, root_problems

__all__ = [
    "CHECKS",
    "Check",
    "HostFacts",
    "Needs",
    "Problem",
    "Scope",
    "Severity",
    "Trust",
    "check",
    "root_problems",
    "unreachable",
]
