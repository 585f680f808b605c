"""pyinfra's entry point: `pyinfra inventories/x.py rbee_deploy/deploy.py`."""

from rbee_deploy import stages

stages.run()
