"""What can stand in a run file: every registered part with a line of what it is and where it comes from.

fieldforge list encoding
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable

from fieldforge.apps.cli.words import UsageError, print_json
from fieldforge.checks import did_you_mean
from fieldforge.registry import HOMES, available, find

METHODS = "methods"
_CITED = r"\([^()]*[A-Z][^()]*\b(?:19|20)\d\d\b[^()]*\)"


def list_command(kind: str | None, *, as_json: bool) -> int:
    """Print the kinds there are, or the parts of a kind, or the methods that can be compared; returns the exit code.

    Raises:
        UsageError: there is no such kind.
    """
    kinds = (*HOMES, METHODS)
    if kind is None:
        rows = [(name, ", ".join(_names(name))) for name in kinds]
    else:
        wanted = kind.lower().replace("-", "_")
        found = next((name for name in kinds if wanted in (name, f"{name}s")), None)
        if found is None:
            raise UsageError(f"kind: there is no {kind}{did_you_mean(wanted, kinds)}; known: {', '.join(kinds)}")
        rows = _methods() if found == METHODS else [(name, about(found, name)) for name in available(found)]
    if as_json:
        print_json(dict(rows))
        return 0
    width = max(len(name) for name, _ in rows)
    for name, text in rows:
        print(f"{name.ljust(width)}  {text}".rstrip())
    return 0


def about(kind: str, name: str) -> str:
    """One line on a part: the first sentence of its class, and the first source that its class or its module names.

    Example:
        >>> about("activation", "FINER")
        'sin(omega (|z| + 1) z) (Liu et al., CVPR 2024)'
    """
    factory = find(kind, name).factory
    own, module = inspect.getdoc(factory) or "", sys.modules[factory.__module__].__doc__ or ""
    sentence = re.split(r"(?<=[^.]\.)(?<!et al\.)\s|:\n", f"{_line(own.split(chr(10) * 2)[0])} ")[0].rstrip(" .:")
    cited = re.search(_CITED, _line(own)) or re.search(_CITED, _line(module))
    source = "" if cited is None or cited[0] in sentence else f" {cited[0]}"
    return sentence + source


def _names(kind: str) -> Iterable[str]:
    return (name for name, _ in _methods()) if kind == METHODS else available(kind)


def _methods() -> list[tuple[str, str]]:
    from fieldforge.apps.compare.about import ABOUT
    from fieldforge.apps.compare.methods import METHODS as TABLES

    def signals(name: str) -> str:
        return ", ".join(signal for signal, table in TABLES.items() if name in table)

    return [(name, f"{text}; of {signals(name)}") for name, text in ABOUT.items()]


def _line(text: str) -> str:
    return " ".join(text.split())
