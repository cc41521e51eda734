"""INT: learn from the samples that are most wrong (Zhang et al., ICML 2024, "Nonparametric Teaching of Implicit Neural
Representations"), and the scores of NINT (arXiv 2511.15487).

    [selection]
    otype = "INT"
    start = 0.2
    ratio = "step"
    refresh = "incremental"
    mode = "top"

The share of samples grows, of a picture or a sound, and they are chosen less and less often. The schedules are those of
the released code: the ratio "step" ends at start + 0.9 (1 - start) and never reaches 1; "incremental" chooses before
every step in the first quarter of a fit, then every 10, 20, 30, 40, 50 steps in fifths of the rest, of fits of 5000
steps. In a fit of 500 those intervals are up to a tenth of it: the chosen samples are learnt and the others forgotten.
So intervals are in proportion to the fit unless `interval` says otherwise (`data/studies/methods.md` has both).
"decremental" is the mirror image, our reading of a name.

The paper takes all selected samples in each step; with a batch smaller than the signal, the batch shrinks by the share
instead. ``mode="random"`` is the control: the same numbers, without looking.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from fieldforge.apps.fit.selections.base import Pool, Selection
from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.registry import register

RATIOS = ("constant", "linear", "step", "cosine", "reverse_cosine")
REFRESHES = ("dense", "incremental", "decremental")
MODES = ("top", "random", "mix")


def ratio_at(ratio: str, start: float, step: int, n_steps: int) -> float:
    """The share of samples at a step.

    Example:
        >>> [round(ratio_at("step", 0.2, step, 100), 2) for step in (0, 9, 10, 99)]
        [0.2, 0.2, 0.28, 0.92]
    """
    done = min(1.0, step / n_steps)
    wave = 0.5 * (1 + math.cos(math.pi * done))  # from 1 to 0
    grown = {
        "constant": 0.0,
        "linear": done,
        "step": min(9, 10 * step // n_steps) / 10,
        "cosine": 1 - wave,
        "reverse_cosine": wave,
    }[ratio]
    return start + grown * (1 - start)


def is_due(refresh: str, step: int, n_steps: int, interval: int | None = None) -> bool:
    """Whether samples are chosen before a step.

    Args:
        refresh: "dense", "incremental" or "decremental".
        step, n_steps: of the fit.
        interval: the first of the five, in steps; None: a 500th of the fit, so 10 steps of the paper's 5000.

    Example:
        >>> [step for step in range(400) if is_due("incremental", step, 400, 10)][98:106]
        [98, 99, 100, 110, 120, 130, 140, 150]
    """
    if refresh == "dense":
        return True
    interval = interval or max(1, round(n_steps / 500))
    first, interval = _phase(step if refresh == "incremental" else n_steps - 1 - step, n_steps, interval)
    if refresh == "incremental":
        return (step - first) % interval == 0
    # counted from the end: the mirrored phase begins where its last step lies
    return step == 0 or (n_steps - 1 - step - first) % interval == 0


def _phase(step: int, n_steps: int, interval: int) -> tuple[int, int]:
    """The first step of the phase that a step is in, and its interval."""
    bounds = [0, *(round(n_steps * (0.25 + 0.15 * i)) for i in range(5))]
    number = max(i for i, bound in enumerate(bounds) if step >= bound)
    return bounds[number], max(1, interval * number)


@register("selection", "INT")
class INT(Selection):
    """The k samples of the largest |value - answer|, with k the share of the moment.

    Args:
        start: the share at the beginning.
        ratio: how it grows: "constant", "linear", "step", "cosine", or "reverse_cosine", which falls from 1 to it.
        refresh: when samples are chosen: "dense", "incremental" or "decremental".
        interval: steps between choices after the first quarter, at first; None: a 500th of the fit.
        mode: "top"; "random": any k, the control; "mix": a part of them at random, since the most wrong samples of a
            noisy signal are its noise.
        random_share: of those of "mix", drawn at random.
    """

    otype = "INT"

    def __init__(
        self,
        *,
        start: float = 0.2,
        ratio: Literal["constant", "linear", "step", "cosine", "reverse_cosine"] = "step",
        refresh: Literal["dense", "incremental", "decremental"] = "incremental",
        interval: int | None = None,
        mode: Literal["top", "random", "mix"] = "top",
        random_share: float = 0.1,
    ) -> None:
        self.start = expect_float("start", start, 0.0, 1.0, open_low=True)
        self.ratio = expect_choice("ratio", ratio, RATIOS)
        self.refresh = expect_choice("refresh", refresh, REFRESHES)
        self.interval = None if interval is None else expect_int("interval", interval, 1, 10**9)
        self.mode = expect_choice("mode", mode, MODES)
        self.random_share = expect_float("random_share", random_share, 0.0, 1.0)

    def is_due(self, step: int, n_steps: int) -> bool:
        return is_due(self.refresh, step, n_steps, self.interval)

    def select(self, pool: Pool, n_steps: int, carried: dict[str, Tensor]) -> Tensor:
        k = max(1, round(ratio_at(self.ratio, self.start, pool.step, n_steps) * pool.n))
        if k >= pool.n:
            return torch.ones(pool.n, dtype=torch.bool)
        n_random = {"top": 0, "random": k, "mix": round(self.random_share * k)}[self.mode]
        chosen = torch.zeros(pool.n, dtype=torch.bool)
        if n_random < k:
            chosen[largest(pool.errors(), k - n_random)] = True
        return add_random(chosen, pool, n_random)


@register("selection", "NINT")
class NINT(Selection):
    """A constant share, chosen before every step: most at random, some by the tangent kernel, the rest by error (NINT,
    arXiv 2511.15487, 2025).

    The kernel's score of a sample is |K(x, ·) r|, r the residuals of all samples and K the empirical tangent kernel;
    no kernel is formed, it takes one gradient and one forward derivative. Its part of what is not random falls as
    exp(-step / decay). These numbers come from a third party's notes on the paper, not from its code.

    Args:
        start: share of the samples.
        random_share: of them, drawn at random.
        every: steps between scores by the kernel.
        decay: steps in which their part falls to 1/e.
    """

    otype = "NINT"

    def __init__(self, *, start: float = 0.2, random_share: float = 0.7, every: int = 10, decay: float = 10.0) -> None:
        self.start = expect_float("start", start, 0.0, 1.0, open_low=True)
        self.random_share = expect_float("random_share", random_share, 0.0, 1.0)
        self.every = expect_int("every", every, 1, 10**6)
        self.decay = expect_float("decay", decay, 0.0, 1e9, open_low=True)

    def is_due(self, step: int, n_steps: int) -> bool:
        return True

    def carries(self, n: int) -> dict[str, Tensor]:
        return {"tangent_errors": torch.zeros(n)}

    def select(self, pool: Pool, n_steps: int, carried: dict[str, Tensor]) -> Tensor:
        k = max(1, round(self.start * pool.n))
        if k >= pool.n:
            return torch.ones(pool.n, dtype=torch.bool)
        n_random = round(self.random_share * k)
        n_tangent = round((k - n_random) * math.exp(-pool.step / self.decay))
        chosen = torch.zeros(pool.n, dtype=torch.bool)
        if n_tangent:
            if pool.step % self.every == 0:
                carried["tangent_errors"].copy_(pool.tangent_errors())
            chosen[largest(carried["tangent_errors"], n_tangent)] = True
        if k - n_random - n_tangent:
            errors = pool.errors().masked_fill(chosen, -math.inf)
            chosen[largest(errors, k - n_random - n_tangent)] = True
        return add_random(chosen, pool, n_random)


def largest(scores: Tensor, k: int) -> Tensor:
    """The indices of the k largest, of equal ones the first, in ascending order; NaN counts as large."""
    scores = scores.nan_to_num(nan=math.inf, posinf=math.inf)
    if not 0 < k < len(scores):
        return torch.arange(max(0, min(k, len(scores))))
    bound = scores.kthvalue(len(scores) - k + 1).values  # a tenth of the time of sorting all of them
    above = scores > bound
    equal = (scores == bound).nonzero().squeeze(1)
    above[equal[: k - int(above.sum())]] = True
    return above.nonzero().squeeze(1)


def add_random(chosen: Tensor, pool: Pool, n: int) -> Tensor:
    """`chosen` with n samples more, any of the rest."""
    if n:
        order = pool.shuffled()
        chosen[order[~chosen[order]][:n]] = True
    return chosen
