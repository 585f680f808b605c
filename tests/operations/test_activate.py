"""The command lines of activations, as a shell takes them apart."""

import shlex

from rbee_deploy.operations.activate import activator, apart


def test_the_activator_of_a_release_runs_apart_from_the_connection() -> None:
    """Whatever the words hold arrives as it is, in a unit of its own that is waited for."""
    why = 'a\'b "c" $(reboot); `id`'
    words = shlex.split(apart(activator("0.1.0-ab", "activate", "1f", "--why", why)))
    at = words.index("--")
    assert words[:at] == ["systemd-run", "--quiet", "--wait", "--collect", "--pipe", "--service-type=exec"]
    assert words[at + 1 :] == [
        *("/opt/rbee/releases/0.1.0-ab/bin/python", "-I", "-m", "rbee_deploy.activator"),
        *("activate", "1f", "--why", why),
    ]
