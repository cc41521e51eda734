"""``fieldforge bench methods``: what papers say of their methods, each claim beside its controls.

Every part is one claim, measured on a small signal that two cores can train on; `data/studies/methods.md` says for each
what was claimed, what the arms are and what came out. To add one: a module with the two functions of `Claim`, and a
line in `PARTS`.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from fieldforge.apps.bench.harness import Row, one_thread, save

PARTS: dict[str, str] = {
    "fresh": "spectra",
    "auto": "spectra",
    "int": "teaching",
    "iga": "inductive",
    "sape": "exposure",
    "sape_scaled": "exposure",
    "cam": "exposure",
    "networks": "networks",
    "spder": "pictures",
    "cameraman": "pictures",
    "neurbf": "neurbf",
    "injection": "injection",
    "pairs": "pairs",
    "bases": "bases",
    "redshift": "random_networks",
    "reparameterisation": "reparameterisation",
    "best": "best",
}
"""Part -> module of this room."""


class Claim(Protocol):
    """A module that measures one part or several."""

    def measure(self, part: str, data: Path | None, *, is_quick: bool) -> Iterator[list[Row]]:
        """Rows of the suite "methods", some at a time; their cases begin with the part and a colon.

        Args:
            data: folder of the shared material, which has `images`, `meshes`, `scenes`; None where it is not given.
            is_quick: smallest sizes, no files: does it run?
        """

    def table(self, part: str, rows: Sequence[dict[str, Any]]) -> str:
        """Of the page, from the newest rows of the part."""


def claim_of(part: str) -> Claim:
    """The module that measures a part."""
    return cast(Claim, importlib.import_module(f"{__name__}.{PARTS[part]}"))


def run(folder: Path, data: Path | None, *, is_quick: bool, only: Sequence[str] = ()) -> None:
    """Measure, print, and keep the rows unless `is_quick`, as soon as they are there.

    Raises:
        ValueError: no part of that name, or a part's files are not in the folder.
    """
    for part in only:
        if part not in PARTS:
            raise ValueError(f"only: expected some of {', '.join(PARTS)}, got {part!r}")
    with one_thread():
        for part in only or PARTS:
            for rows in claim_of(part).measure(part, data, is_quick=is_quick):
                if not is_quick:
                    save(folder, "methods", rows)
