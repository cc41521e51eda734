"""Looking at fields with proposals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.render.radiance import EYES, SceneEye, background_of, native_renderer
from fieldforge.checks import expect_bool, expect_choice, expect_float, expect_int
from fieldforge.fields.kinds.proposal import ProposalField
from fieldforge.kernels.cpu_radiance import Sights
from fieldforge.renderers import volume
from fieldforge.renderers.compositing import composite
from fieldforge.renderers.proposals import Level, propose, union
from fieldforge.renderers.rays import intersect_box
from fieldforge.renderers.samples import Samples
from fieldforge.renderers.spacing import SPACINGS

MOST_SAMPLES = 4096


@dataclass(frozen=True)
class Looking:
    """Where along a ray a field with proposals is asked.

    Args:
        n_samples: of each proposal and, last, of the field.
        near, far: where rays begin and end, in world units; a box that holds all there is cuts them shorter.
        spacing: of the first samples, one of `fieldforge.renderers.spacing.SPACINGS`.
        padding: of weights before they are resampled.
        joins: whether the field is asked at the samples of the last proposal too.
    """

    n_samples: Sequence[int]
    near: float = 0.05
    far: float = 1000.0
    spacing: str = "piecewise"
    padding: float = 0.01
    joins: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.n_samples, str) or not isinstance(self.n_samples, Sequence) or len(self.n_samples) < 2:
            raise ValueError(f"n_samples: expected two numbers or more, got {self.n_samples!r}")
        for i, n in enumerate(self.n_samples):
            expect_int(f"n_samples[{i}]", n, 1, MOST_SAMPLES)
        expect_choice("spacing", self.spacing, SPACINGS)
        expect_float("near", self.near, 0.0, 1e9, open_low=self.spacing == "disparity")
        expect_float("far", self.far, self.near, 1e9, open_low=True)
        expect_float("padding", self.padding, 0.0, 1e3)
        expect_bool("joins", self.joins)

    @property
    def counts(self) -> list[int]:
        """Samples that are drawn at each level; the edges that are joined make one interval more."""
        *before, last = self.n_samples
        return [*before, max(1, last - 1) if self.joins else last]


def looking_of(field: ProposalField, metadata: Mapping[str, Any]) -> Looking:
    """What the header of a field's file remembers of its training; where that makes no sense, 64 samples a level."""
    run = metadata.get("run")
    found = run.get("sampler") if isinstance(run, Mapping) else None
    given = found if isinstance(found, Mapping) else {}
    known = {name: given[name] for name in ("n_samples", "near", "far", "spacing", "padding") if name in given}
    try:
        looking = Looking(**known, joins=given.get("otype") == "Hierarchical")
        if len(looking.n_samples) == len(field.proposals) + 1:
            return looking
    except (TypeError, ValueError):
        pass
    return Looking([64] * (len(field.proposals) + 1))


def span(field: ProposalField, origins: Tensor, directions: Tensor, looking: Looking) -> tuple[Tensor, Tensor]:
    """(R,) where rays begin and end; those that miss a box that holds all there is end where they begin."""
    if field.field.space.is_bounded:
        return intersect_box(origins, directions, field.low, field.high, looking.near, looking.far)
    near = torch.full_like(origins[:, 0], looking.near)
    is_ray = (origins.isfinite() & directions.isfinite()).all(-1)
    return near, torch.where(is_ray, looking.far, near)


def samples_along(
    field: ProposalField,
    origins: Tensor,
    directions: Tensor,
    looking: Looking,
    *,
    exponent: float | Tensor = 1.0,
    jitter: Tensor | None = None,
    every: bool = False,
) -> tuple[list[Level], Samples, Samples]:
    """What the proposals say, and where the field is to be asked, in shares of the rays and in world length.

    The rest is as for `fieldforge.renderers.proposals.propose`.
    """
    near, far = span(field, origins, directions, looking)
    levels, shares, samples = propose(
        origins, directions, near, far, [proposal.density for proposal in field.proposals], looking.counts,
        spacing=looking.spacing, exponent=exponent, padding=looking.padding, jitter=jitter,
        every=every,
    )  # fmt: skip
    if looking.joins:
        shares, samples = union(levels[-1].shares, shares), union(levels[-1].samples, samples)
    return levels, shares, samples


class ProposalEye(SceneEye):
    """Looks at a field with proposals along rays, natively where it can.

    Args:
        field: what is seen.
        looking: where it is asked.
        background: (3,) behind everything; None is the field's own, or black.
    """

    def __init__(self, field: ProposalField, looking: Looking, *, background: Tensor | None = None) -> None:
        self.field, self.looking = field, looking
        self.background = background_of(field) if background is None else background
        renderer = native_renderer(field.field)
        self.renderer = None if isinstance(renderer, str) else renderer

    @torch.no_grad()
    def __call__(self, origins: Tensor, directions: Tensor) -> volume.Seen:
        levels, _, samples = samples_along(self.field, origins, directions, self.looking)
        n_marched = sum(level.samples.n_samples for level in levels)
        if self.renderer is None:
            found, color = volume.radiance_at(samples, origins, directions, self.field.radiance)
            rendered = composite(samples, found, color, background=self.background)
            return volume.seen_of(rendered, n_marched, samples.n_samples)
        background = self.background.expand(len(origins), 3).contiguous()
        code = self.field.field.dir_encoding(0.5 * directions + 0.5)
        seen = self.renderer.render(Sights(samples, origins, directions, code, background, 0.0))
        distance = torch.where(seen.opacity > 0, seen.depth / seen.opacity, math.inf)
        return volume.Seen(seen.color, distance, seen.opacity, n_marched, seen.n_evaluated)


EYES[ProposalField] = lambda field, metadata: ProposalEye(field, looking_of(field, metadata))
