"""Servers that are on a host already: `search` runs there and finds them, `found` says what an inventory needs."""
