"""Podman of a user without rights: what it needs on the host, its API, and the network of its workers."""
