"""Adam (Kingma & Ba 2014) with tiny-cuda-nn's keys, and AdaBound (Luo et al. 2019).

    {"otype": "Adam", "learning_rate": 1e-2, "beta1": 0.9, "beta2": 0.99, "epsilon": 1e-15, "l2_reg": 1e-6}

Two things differ from Adam as it is usually written. Epsilon is added to the *uncorrected* root of the second moment,
so it weighs more in the first steps. And by default an entry of a table whose gradient is exactly zero is skipped:
its moments do not fade and its own step counter, which the bias correction uses, does not advance. So entries that
few points reach learn at the same pace as the others (Müller et al. 2022, section 4). Where every entry gets a
gradient in every step, ``"skip_zero_grad_non_matrix_params": false`` is the same and several times faster.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.optim.adam import adam as torch_adam

from fieldforge.apps.fit.optimizers.base import (
    BELOW_ONE,
    LARGEST,
    OWN_PACE,
    Optimizer,
    Parameters,
    decayed,
    numbered,
    zeros_like_each,
)
from fieldforge.backends import choose, provide
from fieldforge.checks import expect_bool, expect_float
from fieldforge.kernels.cpu_training import Moved, Mover, Rule
from fieldforge.kernels.triton import adam as triton_adam
from fieldforge.kernels.triton import door as triton_door
from fieldforge.registry import register

BLOCK = 2**15
"""Entries of a table that are looked through at once for gradients that are not zero."""


@register("optimizer", "Adam")
class Adam(Optimizer):
    """Step by the ratio of the running mean of the gradient to its running root mean square.

    With g the gradient (plus L2), t the number of steps of this entry::

        m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g²
        rate = learning_rate * sqrt(1 - beta2^t) / (1 - beta1^t)
        w <- w - rate * m / (sqrt(v) + epsilon)

    Args:
        parameters: what to optimize.
        learning_rate: step length.
        beta1: fading of the mean of the gradient.
        beta2: fading of the mean of its square.
        epsilon: added to sqrt(v), before bias correction.
        l2_reg: strength of the pull toward zero for matrix parameters, added to the gradient.
        relative_decay: part of a weight lost per unit of rate.
        absolute_decay: amount of a weight lost per unit of rate.
        adabound: keep rate / (sqrt(v) + epsilon) between bounds that close in on 0.1.
        clipping_magnitude: weights are clipped to this magnitude; 0 is no clipping.
        gradient_clipping_magnitude: gradient entries are clipped to this magnitude; 0 is no clipping.
        non_matrix_learning_rate_factor: multiplies the learning rate of the other parameters.
        non_matrix_l2_reg: l2_reg of the other parameters.
        optimize_matrix_params: false leaves the matrix parameters alone.
        optimize_non_matrix_params: false leaves the other parameters alone.
        skip_zero_grad_non_matrix_params: skip entries of the other parameters with a zero gradient.

    The same bits for any number of threads.

    Example:
        >>> w = nn.Parameter(torch.zeros(2))
        >>> w.grad = torch.tensor([3.0, 0.0])
        >>> Adam(Parameters(other=[w]), learning_rate=0.5).step()
        >>> w.data
        tensor([-0.5000,  0.0000])
    """

    otype = "Adam"

    def __init__(
        self,
        parameters: Parameters,
        *,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.999,
        epsilon: float = 1e-8,
        l2_reg: float = 1e-8,
        relative_decay: float = 0.0,
        absolute_decay: float = 0.0,
        adabound: bool = False,
        clipping_magnitude: float = 0.0,
        gradient_clipping_magnitude: float = 0.0,
        non_matrix_learning_rate_factor: float = 1.0,
        non_matrix_l2_reg: float = 0.0,
        optimize_matrix_params: bool = True,
        optimize_non_matrix_params: bool = True,
        skip_zero_grad_non_matrix_params: bool = True,
    ) -> None:
        super().__init__(parameters)
        self.learning_rate = expect_float("learning_rate", learning_rate, 0.0, LARGEST)
        self.beta1 = expect_float("beta1", beta1, 0.0, BELOW_ONE)
        self.beta2 = expect_float("beta2", beta2, 0.0, BELOW_ONE)
        self.epsilon = expect_float("epsilon", epsilon, 0.0, LARGEST)
        self.l2_reg = expect_float("l2_reg", l2_reg, 0.0, LARGEST)
        self.relative_decay = expect_float("relative_decay", relative_decay, 0.0, LARGEST)
        self.absolute_decay = expect_float("absolute_decay", absolute_decay, 0.0, LARGEST)
        self.adabound = expect_bool("adabound", adabound)
        self.clipping_magnitude = expect_float("clipping_magnitude", clipping_magnitude, 0.0, LARGEST)
        self.gradient_clipping_magnitude = expect_float(
            "gradient_clipping_magnitude", gradient_clipping_magnitude, 0.0, LARGEST
        )
        self.non_matrix_learning_rate_factor = expect_float(
            "non_matrix_learning_rate_factor", non_matrix_learning_rate_factor, 0.0, LARGEST
        )
        self.non_matrix_l2_reg = expect_float("non_matrix_l2_reg", non_matrix_l2_reg, 0.0, LARGEST)
        self.optimize_matrix_params = expect_bool("optimize_matrix_params", optimize_matrix_params)
        self.optimize_non_matrix_params = expect_bool("optimize_non_matrix_params", optimize_non_matrix_params)
        self.skip_zero_grad_non_matrix_params = expect_bool(
            "skip_zero_grad_non_matrix_params", skip_zero_grad_non_matrix_params
        )
        self._first = zeros_like_each(parameters)
        self._second = zeros_like_each(parameters)
        # How often a whole parameter was updated; and, where zero gradients are skipped, each entry by itself.
        self._n_updates = torch.zeros(len(parameters), dtype=torch.int64, device="cpu")
        is_moving = [self.optimize_matrix_params] * len(parameters.matrix)
        is_moving += [self.optimize_non_matrix_params] * len(parameters.other)
        self._is_moving = torch.tensor(is_moving, dtype=torch.int64, device="cpu")
        lazy = parameters.other if self.skip_zero_grad_non_matrix_params else ()
        self._n_entry_updates = [torch.zeros_like(table, dtype=torch.int32, requires_grad=False) for table in lazy]
        self._corrections = torch.zeros(1, dtype=torch.float64, device="cpu")
        self._corrections_there = self._corrections

    def update(self) -> None:
        n_matrix = len(self.parameters.matrix)
        if self.optimize_matrix_params:
            self._update_whole(range(n_matrix), 1.0, self.l2_reg)
        if self.optimize_non_matrix_params and not self.skip_zero_grad_non_matrix_params:
            others = range(n_matrix, len(self.parameters))
            self._update_whole(others, self.non_matrix_learning_rate_factor, self.non_matrix_l2_reg)
        if self.optimize_non_matrix_params and self.skip_zero_grad_non_matrix_params:
            self._update_touched_entries()

    def moved(self) -> list[Moved] | str:
        if type(self) is not Adam:
            return super().moved()
        if self.parameters.factors:
            return OWN_PACE
        if self._n_entry_updates and self.optimize_non_matrix_params:
            return "Adam skips the entries of a table whose gradient is zero (skip_zero_grad_non_matrix_params)"
        return [Moved(first, second) for first, second in zip(self._first, self._second, strict=True)]

    def rules(self) -> list[Rule]:
        rate = self.learning_rate * self.learning_rate_factor
        low, high = self._bounds()
        found: dict[tuple[bool, int], Rule] = {}
        n_matrix = len(self.parameters.matrix)
        groups = [(i < n_matrix, count + 1) for i, count in enumerate(self._n_updates.tolist())]
        for is_matrix, count in set(groups):
            moves = self.optimize_matrix_params if is_matrix else self.optimize_non_matrix_params
            factor = 1.0 if is_matrix else self.non_matrix_learning_rate_factor
            found[is_matrix, count] = Rule(
                Mover.ADAM if moves else Mover.NONE,
                rate=rate * factor * self._correction(count),
                beta1=self.beta1,
                beta2=self.beta2,
                epsilon=self.epsilon,
                l2=self.l2_reg if is_matrix else self.non_matrix_l2_reg,
                relative_decay=self.relative_decay,
                absolute_decay=self.absolute_decay,
                gradient_limit=self.gradient_clipping_magnitude or math.inf,
                limit=self.clipping_magnitude or math.inf,
                low=low,
                high=high,
            )
        return [found[group] for group in groups]

    def count_outside_step(self) -> None:
        self._n_updates += self._is_moving
        super().count_outside_step()

    def _update_whole(self, indices: Sequence[int], rate_factor: float, l2_reg: float) -> None:
        """One step of every entry of the parameters of a group that have a gradient."""
        parameters = list(self.parameters)
        rate = self.learning_rate * self.learning_rate_factor * rate_factor
        by_count: dict[int, list[int]] = defaultdict(list)
        n_updates = self._n_updates.tolist()
        for i in indices:
            if parameters[i].grad is not None:
                by_count[n_updates[i] + 1].append(i)
        for count, members in by_count.items():
            self._n_updates[members] = count
            if self._is_plain():
                self._update_fused([parameters[i] for i in members], members, count, rate, l2_reg)
                continue
            for i in members:
                weight, gradient = parameters[i], parameters[i].grad
                assert gradient is not None
                rate_now = rate * self._correction(count)
                new = self._move(weight.data, gradient, self._first[i], self._second[i], rate_now, l2_reg)
                weight.copy_(new)

    def _is_plain(self) -> bool:
        extras = (self.relative_decay, self.absolute_decay, self.clipping_magnitude, self.gradient_clipping_magnitude)
        return not self.adabound and not any(extras) and self.epsilon > 1e-30  # without epsilon, 0 / 0 at v = 0

    def _update_fused(
        self, weights: list[nn.Parameter], indices: list[int], count: int, rate: float, l2: float
    ) -> None:
        """PyTorch's kernel, in one pass. It adds epsilon to the corrected root, so epsilon is corrected too."""
        torch_adam(
            [weight.data for weight in weights],
            [weight.grad.contiguous() for weight in weights if weight.grad is not None],
            [self._first[i] for i in indices],
            [self._second[i] for i in indices],
            [],
            list(torch.full((len(weights),), count - 1.0, device=weights[0].device).unbind()),
            fused=True,
            amsgrad=False,
            beta1=self.beta1,
            beta2=self.beta2,
            lr=rate,
            weight_decay=l2,
            eps=self.epsilon / math.sqrt(1.0 - self.beta2**count),
            maximize=False,
        )

    def _update_touched_entries(self) -> None:
        """One step of those entries of the other parameters whose gradient is not zero."""
        rate = self.learning_rate * self.learning_rate_factor * self.non_matrix_learning_rate_factor
        n_matrix = len(self.parameters.matrix)
        for i, (weight, counts) in enumerate(zip(self.parameters.other, self._n_entry_updates, strict=True), n_matrix):
            if weight.grad is None:
                continue
            table = self._correction_table(self.n_steps_done + 1, weight)
            run = choose("adam_of_touched_entries", weight.device, dtype=weight.dtype)
            run(self, weight, (self._first[i], self._second[i], counts), rate, table)

    def _move(
        self, weight: Tensor, gradient: Tensor, first: Tensor, second: Tensor, rate: float | Tensor, l2_reg: float
    ) -> Tensor:
        """The rule in plain operations; `rate` is bias-corrected. Updates the moments in place, returns new weights."""
        if l2_reg != 0.0:
            gradient = gradient + l2_reg * weight
        if self.gradient_clipping_magnitude != 0.0:
            gradient = gradient.clamp(-self.gradient_clipping_magnitude, self.gradient_clipping_magnitude)
        first.mul_(self.beta1).add_(gradient, alpha=1.0 - self.beta1)
        second.mul_(self.beta2).addcmul_(gradient, gradient, value=1.0 - self.beta2)
        low, high = self._bounds()
        effective_rate = (rate / (second.sqrt() + self.epsilon)).clamp(low, high)
        if self.epsilon == 0.0:
            effective_rate = effective_rate.nan_to_num(low)  # 0 / 0: nothing learned yet, and the rate is 0
        new = decayed(weight, rate, self.relative_decay, self.absolute_decay) - effective_rate * first
        if self.clipping_magnitude != 0.0:
            new = new.clamp(-self.clipping_magnitude, self.clipping_magnitude)
        return new

    def _bounds(self) -> tuple[float, float]:
        """AdaBound's, on the effective rate."""
        if not self.adabound:
            return 0.0, LARGEST
        t = (1.0 - self.beta2) * (self.n_steps_done + 1)
        return 0.1 - 0.1 / (t + 1.0), 0.1 + 0.1 / t

    def _correction(self, count: int) -> float:
        return math.sqrt(1.0 - self.beta2**count) / (1.0 - self.beta1**count)

    def _correction_table(self, most: int, weight: Tensor) -> Tensor:
        """(at least most + 1,) bias corrections by number of updates, where a weight is; entry 0 is never read.

        It grows by doubling, so it seldom travels.
        """
        is_short = len(self._corrections) <= most
        if is_short:
            counts = torch.arange(2 * most + 64, dtype=torch.float64, device="cpu")
            table = (1.0 - self.beta2**counts).sqrt() / (1.0 - self.beta1**counts)
            self._corrections = table.nan_to_num(0.0)
        there = self._corrections_there
        if is_short or (there.device, there.dtype) != (weight.device, weight.dtype):
            self._corrections_there = self._corrections.to(weight.device, weight.dtype)
        return self._corrections_there

    def averaged(self) -> list[Tensor]:
        return list(self.parameters)

    def own_state(self) -> dict[str, Tensor]:
        n_matrix = len(self.parameters.matrix)
        state = {"n_updates": self._n_updates}
        state |= numbered("first_moment", self._first) | numbered("second_moment", self._second)
        return state | {f"{n_matrix + i}.n_entry_updates": counts for i, counts in enumerate(self._n_entry_updates)}


@provide("adam_of_touched_entries", "reference")
def _touched_in_blocks(
    adam: Adam, weight: nn.Parameter, beside: tuple[Tensor, Tensor, Tensor], rate: float, corrections: Tensor
) -> None:
    """One step of the entries whose gradient is not zero; `beside` are both moments and the entries' own counts."""
    assert weight.grad is not None
    whole = (weight.grad.reshape(-1), weight.data, *beside)
    # In blocks that stay in the cache: on whole tables, fetching fresh memory would take most of the time.
    for gradient, *block in zip(*(tensor.view(-1).split(BLOCK) for tensor in whole), strict=True):
        touched = gradient.nonzero().squeeze(-1)
        old, first, second, count = (tensor.index_select(0, touched) for tensor in block)
        count += 1
        rate_now = rate * corrections.index_select(0, count)
        here = gradient.index_select(0, touched)
        new = adam._move(old, here, first, second, rate_now, adam.non_matrix_l2_reg)
        for tensor, values in zip(block, (new, first, second, count), strict=True):
            tensor.index_copy_(0, touched, values)


@provide(
    "adam_of_touched_entries", "cuda", missing=triton_door.missing, refuses=triton_adam.refuses,
    note=triton_door.description,
)  # fmt: skip
def _touched_on_cuda(
    adam: Adam, weight: nn.Parameter, beside: tuple[Tensor, Tensor, Tensor], rate: float, corrections: Tensor
) -> None:
    assert weight.grad is not None
    first, second, counts = beside
    low, high = adam._bounds()
    triton_adam.step(
        weight.data, weight.grad, first, second, counts=counts, corrections=corrections, rate=rate, beta1=adam.beta1,
        beta2=adam.beta2, epsilon=adam.epsilon, l2=adam.non_matrix_l2_reg, relative_decay=adam.relative_decay,
        absolute_decay=adam.absolute_decay, gradient_limit=adam.gradient_clipping_magnitude,
        limit=adam.clipping_magnitude, low=low, high=high,
    )  # fmt: skip
