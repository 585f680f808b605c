"""The guard between a hive and its container engine: whoever may open the engine's own socket is as good as root.

A call is parsed whole, matched against one closed table, turned into one of our own dataclasses and rendered anew for
the engine; nothing that a hive wrote reaches the engine as it was. Standard library and h11 alone: it runs on the host,
where hives with containers have no release. See docs/decisions/0016-engine-guard.md.
"""
