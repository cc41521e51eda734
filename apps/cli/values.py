"""Values of options, checked as they are read: text to a value, or an error that says what was expected."""

from __future__ import annotations

import argparse


def positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a positive number, got {text}")
    return value


def seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected seconds, 0 or more, got {text}")
    return value


def span(text: str) -> tuple[int, int | None]:
    """'10:20', '10:' or ':20' -> the first and the one after the last.

    Example:
        >>> span("10:20"), span("10:")
        ((10, 20), (10, None))
    """
    first, colon, last = text.partition(":")
    if colon and all(not part or (part.isascii() and part.isdigit() and len(part) < 10) for part in (first, last)):
        found = int(first or 0), int(last) if last else None
        if found[1] is None or found[0] < found[1]:
            return found
    raise argparse.ArgumentTypeError(f"expected A:B with A before B, such as 10:20, 10: or :20, got {text}")


def share(text: str) -> float:
    value = positive(text)
    if value >= 1:
        raise argparse.ArgumentTypeError(f"expected a number between 0 and 1, got {text}")
    return value


def unit(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"expected a number from 0 to 1, got {text}")
    return value


def positive_int(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 12 or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text}")
    return int(text)


def names(text: str) -> tuple[str, ...]:
    """'spectrum,ntk' -> ("spectrum", "ntk")."""
    found = tuple(name.strip() for name in text.split(",") if name.strip())
    if not found or len(set(found)) < len(found):
        raise argparse.ArgumentTypeError(f"expected names with commas between them, each once, got {text!r}")
    return found


def backend(text: str) -> str:
    from fieldforge.backends import BACKENDS
    from fieldforge.checks import expect_choice

    try:
        return expect_choice("backend", text, ("auto", *BACKENDS))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device(text: str) -> str:
    """'auto', 'cpu', 'cuda' or 'cuda:1'; whether there is one is asked by the command."""
    kind, colon, number = text.lower().partition(":")
    if text.lower() in ("auto", "cpu", "cuda") or (
        kind == "cuda" and colon and number.isascii() and number.isdigit() and len(number) < 4
    ):
        return text.lower()
    raise argparse.ArgumentTypeError(f"expected auto, cpu, cuda or cuda:N, got {text}")


def n_bytes(text: str) -> int:
    """'100000', '100KB', '2 MiB' -> bytes; a kilobyte is 1000 bytes, a kibibyte 1024.

    Example:
        >>> n_bytes("100KB"), n_bytes("2MiB")
        (100000, 2097152)
    """
    units = {"": 1, "b": 1, "kb": 1000, "mb": 1000**2, "gb": 1000**3, "kib": 1024, "mib": 1024**2, "gib": 1024**3}
    number = text.strip().rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text.strip()[len(number) :].strip().lower()
    try:
        value = int(float(number) * units[unit])
    except (ValueError, KeyError, OverflowError):
        raise argparse.ArgumentTypeError(f"expected a size such as 100000, 100KB or 2MiB, got {text}") from None
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a size of at least 1 byte, got {text}")
    return value


def duration(text: str) -> float:
    """'30', '30s', '2m' or '1.5h' -> seconds.

    Example:
        >>> duration("30s"), duration("2m")
        (30.0, 120.0)
    """
    units = {"s": 1, "m": 60, "h": 3600}
    try:
        return positive(text[:-1] if text[-1:] in units else text) * units.get(text[-1:], 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected a time such as 30s, 2m or 1h, got {text}") from None


def count(text: str) -> int:
    """'200000', '200k' or '1.5M' -> a whole number.

    Example:
        >>> count("200k"), count("1.5M")
        (200000, 1500000)
    """
    units = {"k": 1e3, "m": 1e6}
    try:
        found = positive(text[:-1] if text[-1:].lower() in units else text) * units.get(text[-1:].lower(), 1)
    except argparse.ArgumentTypeError:
        raise argparse.ArgumentTypeError(f"expected a number such as 200000, 200k or 1.5M, got {text}") from None
    return int(found)


def size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected WIDTHxHEIGHT such as 4000x3000, got {text}") from None
    return width, height


def pace(text: str) -> float:
    value = positive(text)
    if not 1 <= value <= 240:
        raise argparse.ArgumentTypeError(f"expected 1 to 240 frames a second, got {text}")
    return value


def crop(text: str) -> tuple[float, float, float, float]:
    try:
        x, y, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected X,Y,WIDTH,HEIGHT such as 100,50,64,64, got {text}") from None
    return x, y, width, height


def box(text: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if len(numbers) != 6 or not all(abs(number) <= 1e12 for number in numbers):
        raise argparse.ArgumentTypeError(f"expected X0,Y0,Z0,X1,Y1,Z1 such as -1,-1,-1,1,1,1, got {text}")
    return numbers
