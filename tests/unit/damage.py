"""JSON that nobody can read, each wrong in its own way: what a torn write, a bad sector or an enemy leaves."""

UNREADABLE = (
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b'{"id": "\xff", "name": "\xff", "fleet": "\xff", "peaks": {"\xff": 1}}',
    b'{"else": ' + b"[" * 100_000,
)
