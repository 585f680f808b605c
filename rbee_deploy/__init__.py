"""Deploys a fleet from one inventory, over SSH."""
