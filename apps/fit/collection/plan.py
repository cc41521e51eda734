"""What is asked of the fit of a collection, and what it came to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fieldforge.apps.fit.collection.executors import Executor

POLICIES = ("random", "shared", "first")
"""random: numbers of each field's own. shared: the same for all. first: where the first item's fit ended
(HyperDiffusion; Erkoç et al. 2023). Of several initialisations of an item, the k-th ones
of all items belong together."""


@dataclass(frozen=True)
class CollectionPlan:
    """What is asked of the fit of a collection.

    Args:
        output: folder to write.
        kind: "image", "shape" (the same as "occupancy"), "occupancy" or "sdf"; None: as the items are.
        init: one of `POLICIES`; inits_per_item: fields of each item.
        preset, config, overrides, steps, seed, backend, device: as for other fits; of Ray's workers, which are on CPUs,
            a device of another kind is refused.
        seconds: stop after about that long; what is finished stays.
        limit: the first so many items only.
        white: of arrays, the number that stands for 1.
        skip_bad: leave out items that cannot be read.
        refit_below: fit fields below that quality again, up to `refits` times, each with twice the steps.
        resume: go on with what is in the folder. restart: discard it.
        executor: "local", "ray", or an executor. workers, address: of Ray, see `OnRay`.
        progress: "auto", "json" or "quiet".
    """

    output: Path
    kind: str | None = None
    init: str = "random"
    inits_per_item: int = 1
    preset: str | None = None
    config: Path | Mapping[str, Any] | None = None
    overrides: Sequence[str] = ()
    steps: int | None = None
    seconds: float | None = None
    seed: int = 0
    backend: str = "auto"
    device: str = "auto"
    limit: int | None = None
    white: float | None = None
    skip_bad: bool = False
    refit_below: float | None = None
    refits: int = 2
    resume: bool = False
    restart: bool = False
    executor: str | Executor = "local"
    workers: int | None = None
    address: str | None = None
    progress: str = "auto"


@dataclass
class CollectionFit:
    """What a fit came to.

    Attributes:
        path: the folder.
        n_fields, n_total: finished, and wanted.
        stopped_by: "" if all are there, else "signal" or "seconds".
        qualities: of each finished field, None where it is not finite.
        figure: what they are: "psnr" or "iou".
        worst: sentences on the worst fields.
        seconds: of this run.
    """

    path: Path
    n_fields: int
    n_total: int
    stopped_by: str
    qualities: list[float | None]
    figure: str
    worst: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def summary(self) -> dict[str, Any]:
        """Figures as JSON."""
        finite = torch.tensor([quality for quality in self.qualities if quality is not None], dtype=torch.float64)
        found: dict[str, Any] = {"fields": self.n_fields, "n_fields": self.n_total, "seconds": round(self.seconds, 3)}
        if len(finite):
            named = {"mean": finite.mean(), "median": finite.quantile(0.5), "worst": finite.min()}
            found |= {f"{self.figure}_{name}": round(float(value), 4) for name, value in named.items()}
        return found | {"not_finite": len(self.qualities) - len(finite)}
