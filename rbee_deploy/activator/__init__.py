"""The part of the deployer that runs on hosts: it comes with every release and needs Python's standard library alone.

    /opt/rbee/releases/<id>/bin/python -m rbee_deploy.activator COMMAND

A generation is what a host should be: a release, every owned file, the units that start. It is brought to the host
first (`stage`), where it changes nothing. `activate` then goes from what is there to the generation:

idle         nothing is under way; `current` is the last generation that became ready
activating   `undo` holds what was there before; every step may be repeated, none is assumed to have ended
done         ready with the wanted digests: `current` is the new one, `undo` is empty
restored     a step failed: what `undo` holds is back and runs, exit status 1
broken       a step failed and so did the way back: `undo` stays, the next activation begins with it, exit status 3

Killed anywhere, by a person or a power cut, it leaves `activating`; the next activation of any generation goes on from
there, and what it would go back to is still the last state that worked.
"""
