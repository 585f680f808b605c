"""Versions of programs as they name them."""


def version(text: str) -> tuple[int, ...]:
    """Return a version's numbers, so that 5.10 comes after 5.9; what follows them does not count."""
    numbers = []
    for part in text.split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)
