"""pyinfra's entry point for `rbee-deploy bundle --from-hosts`."""

from rbee_deploy.bundle import hosts

hosts.look()
