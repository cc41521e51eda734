"""Measure a model that generates fields, with all baselines beside it: every number of the report.

Samples of each arm and as many held-out fields are looked at; figures of quality compare these two sets. Novelty
compares samples with the whole training set, which passes by in pieces and is never held in sight at once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fieldforge.apps.generate.arms import CAP, Arm, Sides
from fieldforge.apps.generate.features import features_of
from fieldforge.apps.generate.figures import (
    Clouds,
    Figure,
    Nearest,
    Novelty,
    chamfer,
    earth_movers,
    euclidean,
    figures,
    frechet,
    novelty,
)
from fieldforge.apps.generate.looks import PictureLooks, Seen, SolidLooks
from fieldforge.apps.generate.nearest import NearestSearch
from fieldforge.apps.generate.telling import Stages, counted
from fieldforge.apps.generate.verdict import Verdict, judge

WEIGHTS = "weights"
N_MOVED, N_MOVED_POINTS = 100, 128
"""Earth mover's distances: fields of each set, and points of each field."""
_PIECE = 64


@dataclass
class Measured:
    """What was found of one arm.

    Attributes:
        arm: its name, how it was made, its samples.
        seen: what the samples of each seed look like.
        figures: for each distance its "MMD", "COV" and "1-NNA", a mean over seeds each; none where too few samples can
            be used, or where there is no second set to compare with.
        of_seeds: the same for each seed.
        frechet: mean over seeds.
        nearest, novelty: by space, of all seeds together.
        n_lost, n_not_finite, lost: samples that cannot be used, and which (seed's place, number).
        closed: part of the samples that are closed surfaces.
        verdict: see `verdict.judge`.
    """

    arm: Arm
    seen: list[Seen]
    figures: dict[str, dict[str, Figure]] = field(default_factory=dict)
    of_seeds: list[dict[str, dict[str, Figure]]] = field(default_factory=list)
    frechet: float | None = None
    nearest: dict[str, Nearest] = field(default_factory=dict)
    novelty: dict[str, Novelty] = field(default_factory=dict)
    n_lost: int = 0
    n_not_finite: int = 0
    lost: list[tuple[int, int]] = field(default_factory=list)
    closed: float = 1.0
    verdict: Verdict | None = None

    @property
    def n(self) -> int:
        """Samples of all seeds."""
        return sum(len(rows) for rows in self.arm.rows)

    def usable(self) -> Tensor:
        """(n,) bool over the samples of all seeds."""
        return ~torch.cat([seen.is_empty for seen in self.seen])


@dataclass
class Findings:
    """All that was measured.

    Attributes:
        arms: the model first.
        training: by space, distances of a part of the training fields to their nearest others.
        probes: which training fields (places in `Sides.training`) these were.
        reference_lost: held-out fields that cannot be used.
        features: a sentence: what the Fréchet distance is of.
        distances: what quality was measured with, the first of which decides.
    """

    arms: list[Measured]
    training: dict[str, Nearest]
    probes: list[int]
    reference_lost: int
    features: str
    distances: list[str]


def measure(looks: PictureLooks | SolidLooks, sides: Sides, arms: list[Arm], stages: Stages, seed: int = 0) -> Findings:
    """Look at all samples, compare them, and judge.

    Args:
        looks: how fields are looked at.
        sides: of the collection.
        arms: the model first, a "Gaussian" among the others if there is one.
        stages: told how far it is; four stages.
        seed: of bootstraps and of the training fields that are compared with the others.
    """
    is_solid = isinstance(looks, SolidLooks)
    n_rows = sum(len(rows) for arm in arms for rows in arm.rows)
    more = counted(stages.stage("looking at samples"), n_rows + len(sides.reference))
    found = []
    for arm in arms:
        seen = [looks.see(rows, with_points=is_solid, observe=more) for rows in arm.rows]
        found.append(_counted(Measured(arm, seen)))
    reference = looks.see(sides.reference, with_points=is_solid, observe=more)
    n_reference_lost = int(reference.is_empty.sum())
    reference = reference[~reference.is_empty]

    training, probes, some = _search(looks, sides, found, stages.stage("nearest training fields"), seed)

    observe = stages.stage("quality")
    quality = _Quality(looks, reference, seed)
    work = [(one, seen) for one in found if not one.arm.is_reference for seen in one.seen]
    for done, (one, seen) in enumerate(work):
        scores = quality.of(seen, lambda share, done=done: observe((done + share) / len(work)))  # type: ignore[misc]
        one.of_seeds.append(scores)
        observe((done + 1) / len(work))
    for one in found:
        one.figures = _mean(one.of_seeds)

    stages.stage("features and verdict")
    features, sentence = features_of(looks, reference, some)
    of_reference = features(reference)
    for one in found:
        distances = [frechet(features(seen[~seen.is_empty]), of_reference)
                     for seen in one.seen if int((~seen.is_empty).sum()) >= 2]  # fmt: skip
        one.frechet = float(np.mean(distances)) if distances else None
    first = quality.names[0]
    gaussian = next((one.figures[first]["1-NNA"] for one in found if one.arm.name == "Gaussian" and one.figures), None)
    for one in found:
        accuracy = one.figures[first]["1-NNA"] if one.figures else None
        one.verdict = judge(one.novelty, accuracy, gaussian, one.n_lost / one.n)
    return Findings(found, training, probes, n_reference_lost, sentence, quality.names)


def _counted(one: Measured) -> Measured:
    for place, (rows, seen) in enumerate(zip(one.arm.rows, one.seen, strict=True)):
        one.n_not_finite += int((~torch.isfinite(rows).all(1)).sum())
        one.lost += [(place, int(number)) for number in seen.is_empty.nonzero()]
    one.n_lost = len(one.lost)
    one.closed = float(torch.cat([seen.is_closed for seen in one.seen]).double().mean())
    return one


def _search(
    looks: PictureLooks | SolidLooks, sides: Sides, found: list[Measured], observe: Callable[[float], None], seed: int
) -> tuple[dict[str, Nearest], list[int], Seen]:
    """Fill in nearest and novelty of the arms; gives those of training fields, and which these are."""
    training, items = sides.training, sides.training_items
    mean, deviation = training.mean(0), training.std(0)
    deviation = torch.where(deviation > 0, deviation, torch.ones_like(deviation))
    probes = torch.randperm(len(training), generator=torch.Generator().manual_seed(seed))[:CAP].sort().values
    probe_seen = looks.see(training[probes])
    kept = ~probe_seen.is_empty  # a training field without a surface is near to nothing
    probes, probe_seen = probes[kept], probe_seen[kept]
    probe_items = [items[index] for index in probes.tolist()]

    sets: list[tuple[Tensor, Tensor]] = [((training[probes] - mean) / deviation, probe_seen.outputs)]
    searches = [{space: NearestSearch(len(probes), probe_items) for space in (WEIGHTS, looks.output_space)}]
    for one in found:
        usable = one.usable()
        rows, outputs = torch.cat(one.arm.rows)[usable], torch.cat([seen.outputs for seen in one.seen])[usable]
        sets.append(((rows - mean) / deviation, outputs))
        searches.append({space: NearestSearch(len(rows)) for space in (WEIGHTS, looks.output_space)})
    for first in range(0, len(training), _PIECE):
        rows, of_items = training[first : first + _PIECE], items[first : first + _PIECE]
        seen, scaled = looks.see(rows), (rows - mean) / deviation
        for (weights, outputs), search in zip(sets, searches, strict=True):
            if len(weights):
                search[WEIGHTS].add(euclidean(weights, scaled), first, of_items)
                distances = looks.distance(outputs, seen.outputs).masked_fill(seen.is_empty[None], torch.inf)
                search[looks.output_space].add(distances, first, of_items)
        observe(min(1.0, (first + _PIECE) / len(training)))
    of_training = {space: search.found() for space, search in searches[0].items()}
    for one, search in zip(found, searches[1:], strict=True):
        if int(one.usable().sum()):
            one.nearest = {space: part.found() for space, part in search.items()}
            one.novelty = {space: novelty(near, of_training[space]) for space, near in one.nearest.items()}
    return of_training, probes.tolist(), probe_seen


class _Quality:
    """MMD, COV and 1-NNA against references that are looked at once."""

    def __init__(self, looks: PictureLooks | SolidLooks, reference: Seen, seed: int) -> None:
        self._looks, self._reference, self._seed = looks, reference, seed
        self.names = ["Chamfer", "earth mover's"] if reference.points is not None else ["pixels"]
        if reference.points is None:
            self._own = {"pixels": euclidean(reference.outputs, reference.outputs)}
            return
        self._clouds = Clouds(reference.points)
        self._few = reference.points[:N_MOVED, _thinned(reference.points.shape[1])]
        self._own = {
            "Chamfer": chamfer(self._clouds, self._clouds),
            "earth mover's": earth_movers(self._few, self._few),
        }

    def of(self, seen: Seen, observe: Callable[[float], None]) -> dict[str, dict[str, Figure]]:
        """Of one set of samples; nothing where fewer than two can be used."""
        usable = seen[~seen.is_empty]
        n, n_lost = len(usable.is_empty), int(seen.is_empty.sum())
        if n < 2:
            return {}
        squares: dict[str, tuple[Tensor, Tensor, int]] = {}
        if usable.points is None:
            outputs = usable.outputs
            squares["pixels"] = euclidean(outputs, outputs), euclidean(outputs, self._reference.outputs), n_lost
        else:
            clouds, m = Clouds(usable.points), len(self._clouds)
            half = (n - 1) / (n - 1 + 2 * m)
            among = chamfer(clouds, clouds, observe=lambda share: observe(0.9 * half * share))
            between = chamfer(clouds, self._clouds, observe=lambda share: observe(0.9 * (half + (1 - half) * share)))
            squares["Chamfer"] = among, between, n_lost
            few = usable.points[:N_MOVED, _thinned(usable.points.shape[1])]
            # as many lost ones as would be among so few
            part = round(n_lost * len(few) / n)
            squares["earth mover's"] = earth_movers(few, few), earth_movers(few, self._few), part
        found = {}
        for name, (among, between, lost) in squares.items():
            generator = torch.Generator().manual_seed(self._seed)
            found[name] = figures(among, between, self._own[name], n_lost=lost, generator=generator)
        return found


def _thinned(n_points: int) -> slice:
    return slice(None, None, max(1, n_points // N_MOVED_POINTS))


def _mean(of_seeds: list[dict[str, dict[str, Figure]]]) -> dict[str, dict[str, Figure]]:
    """Over the seeds that have figures, value and interval."""
    known = [one for one in of_seeds if one]
    if not known:
        return {}
    return {
        distance: {
            name: Figure(*(float(np.mean([one[distance][name][part] for one in known])) for part in range(3)))
            for name in figures_of
        }
        for distance, figures_of in known[0].items()
    }


def as_json(findings: Findings) -> dict[str, Any]:
    """Every number, as JSON values; distances to the nearest training field one for each sample."""
    arms = []
    for one in findings.arms:
        assert one.verdict is not None
        arms.append({
            "name": one.arm.name, "what": one.arm.what, "n": one.n, "n_seeds": len(one.arm.rows),
            "not_finite": one.n_not_finite, "cannot_be_used": one.n_lost,
            "which_cannot_be_used": [list(which) for which in one.lost],
            "closed": one.closed, "figures": _figures_json(one.figures),
            "figures_of_seeds": [_figures_json(of_seed) for of_seed in one.of_seeds],
            "frechet": one.frechet,
            "novelty": {space: _finite(found._asdict()) for space, found in one.novelty.items()},
            "nearest": {space: _nearest_json(near) for space, near in one.nearest.items()},
            "verdict": one.verdict._asdict(),
        })  # fmt: skip
    return {
        "arms": arms,
        "training_to_training": {space: _nearest_json(near) for space, near in findings.training.items()},
        "references_that_cannot_be_used": findings.reference_lost,
        "features": findings.features,
        "distances": findings.distances,
    }


def _figures_json(of_distances: dict[str, dict[str, Figure]]) -> dict[str, Any]:
    return {
        distance: {name: list(figure) for name, figure in found.items()} for distance, found in of_distances.items()
    }


def _nearest_json(near: Nearest) -> dict[str, list[float | None]]:
    return {name: [_short(value) for value in getattr(near, name).tolist()] for name in ("first", "second")}


def _finite(values: dict[str, float]) -> dict[str, float | None]:
    return {name: _short(value) for name, value in values.items()}


def _short(value: float) -> float | None:
    return float(f"{value:.6g}") if np.isfinite(value) else None
