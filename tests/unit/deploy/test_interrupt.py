"""Ctrl-C ends the program whatever runs at that moment."""

import signal
import subprocess
import sys

import pytest

from rbee_deploy import interrupt
from tests.e2e.fleets import ROOT

PROGRAM = """
import pyinfra_cli, pyinfra_cli.main  # patches the standard library, as every run does
import sys, threading, time
import gevent
from rbee_deploy import interrupt

def busy():
    print("ready", flush=True)
    while True:
        sum(range(20_000))
        time.sleep(0)

interrupt.arm()
{begin}
"""

WHERE = {
    "a thread of the SSH library": "threading.Thread(target=busy, daemon=True).start(); threading.Event().wait()",
    "a worker of pyinfra": "gevent.spawn(busy); threading.Event().wait()",
    "the program itself": "busy()",
    "nobody: all wait": "print('ready', flush=True); gevent.sleep(60)",
}


@pytest.mark.parametrize("begin", WHERE.values(), ids=WHERE)
def test_ctrl_c_ends_the_program_whoever_runs(begin: str) -> None:
    """Exit status 1 and the sentence, also when the signal meets a thread in which an exit would be lost."""
    program = [sys.executable, "-c", PROGRAM.format(begin=begin)]
    with subprocess.Popen(program, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        run.stdout.readline()
        run.send_signal(signal.SIGINT)
        try:
            _, said = run.communicate(timeout=20)
        finally:
            run.kill()
    assert (run.returncode, said) == (1, f"{interrupt.SENTENCE}\n")
