"""rbee-deploy against an Ansible playbook that brings equal hosts to the same state, and a fleet of a hundred."""
