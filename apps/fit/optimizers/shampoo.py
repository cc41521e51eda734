"""Shampoo (Gupta et al. 2018; Anil et al. 2020) as tiny-cuda-nn runs it.

    {"otype": "Shampoo", "learning_rate": 1e-3, "identity": 0.01, "frobenius_normalization": true}

A weight matrix's step is multiplied from both sides by inverse fourth roots of the running means L of G Gᵀ and
R of Gᵀ G: a Newton-like step that costs two small eigenvalue problems now and then. tiny-cuda-nn finds the roots by
a coupled Newton iteration, here they come from the eigenvalues; the matrices are the same.
"""

from __future__ import annotations

from itertools import groupby

import torch
from torch import Tensor

from fieldforge.apps.fit.optimizers.base import (
    BELOW_ONE,
    LARGEST,
    Optimizer,
    Parameters,
    decayed,
    numbered,
    zeros_like_each,
)
from fieldforge.checks import expect_bool, expect_float
from fieldforge.registry import register

MOST_ROWS = 4096
"""Matrices with more rows or columns would need too large an L or R; they take the plain momentum step."""


@register("optimizer", "Shampoo")
class Shampoo(Optimizer):
    """Momentum, preconditioned from the left and the right.

    With running means whose fading is bias-corrected (a weight of 1 in the first step), g the gradient plus L2::

        M = mean(g) / (sqrt(mean(g²)) + epsilon)                    beta1, beta2
        L = mean(M Mᵀ),  R = mean(Mᵀ M)                             beta3
        S = mean(L^(-1/4) M R^(-1/4))                               beta_shampoo
        W <- W - learning_rate * S * |M| / |S|                      (Frobenius norms)

    Matrices move from the second step on, when their roots exist. The roots are renewed every 10 steps, after 100
    steps every 200; matrices of different shapes take turns within that time. Everything that is not a matrix of
    `parameters.matrix` moves by ``learning_rate * M`` alone.

    Args:
        parameters: what to optimize.
        learning_rate: step length.
        beta1: fading of the mean gradient.
        beta2: fading of the mean squared gradient.
        beta3: fading of L and R.
        beta_shampoo: fading of the preconditioned step.
        epsilon: added to the root of the mean square.
        identity: part of L and R that is replaced by the identity before taking roots, above 0.
        cg_on_momentum: L and R from M; false: from the raw gradient.
        l2_reg: strength of the pull toward zero, added to the gradient.
        relative_decay: part of a weight lost per unit of rate.
        absolute_decay: amount of a weight lost per unit of rate.
        frobenius_normalization: give S the norm of M; false: use S as it is.

    Matrix products depend on the number of threads in their last bits.
    """

    otype = "Shampoo"

    def __init__(
        self,
        parameters: Parameters,
        *,
        learning_rate: float = 1e-3,
        beta1: float = 0.9,
        beta2: float = 0.99,
        beta3: float = 0.9,
        beta_shampoo: float = 0.9,
        epsilon: float = 1e-8,
        identity: float = 0.01,
        cg_on_momentum: bool = True,
        l2_reg: float = 1e-5,
        relative_decay: float = 0.0,
        absolute_decay: float = 0.0,
        frobenius_normalization: bool = True,
    ) -> None:
        super().__init__(parameters)
        self.learning_rate = expect_float("learning_rate", learning_rate, 0.0, LARGEST)
        self.beta1 = expect_float("beta1", beta1, 0.0, BELOW_ONE)
        self.beta2 = expect_float("beta2", beta2, 0.0, BELOW_ONE)
        self.beta3 = expect_float("beta3", beta3, 0.0, BELOW_ONE)
        self.beta_shampoo = expect_float("beta_shampoo", beta_shampoo, 0.0, BELOW_ONE)
        self.epsilon = expect_float("epsilon", epsilon, 0.0, LARGEST, open_low=True)
        self.identity = expect_float("identity", identity, 0.0, 1.0, open_low=True)
        self.cg_on_momentum = expect_bool("cg_on_momentum", cg_on_momentum)
        self.l2_reg = expect_float("l2_reg", l2_reg, 0.0, LARGEST)
        self.relative_decay = expect_float("relative_decay", relative_decay, 0.0, LARGEST)
        self.absolute_decay = expect_float("absolute_decay", absolute_decay, 0.0, LARGEST)
        self.frobenius_normalization = expect_bool("frobenius_normalization", frobenius_normalization)
        self._first = zeros_like_each(parameters)
        self._second = zeros_like_each(parameters)
        small = [i for i, w in enumerate(parameters.matrix) if w.ndim == 2 and max(w.shape) <= MOST_ROWS]
        self._step = {i: torch.zeros_like(parameters.matrix[i], requires_grad=False) for i in small}
        self._left, self._right, self._left_root, self._right_root = (
            {i: parameters.matrix[i].new_zeros((parameters.matrix[i].shape[axis],) * 2) for i in small}
            for axis in (0, 1, 0, 1)
        )
        # Runs of matrices of the same shape renew their roots together, as in tiny-cuda-nn.
        self._batches = [list(run) for _, run in groupby(small, key=lambda i: parameters.matrix[i].shape)]

    def update(self) -> None:
        for i, weight in enumerate(self.parameters):
            if weight.grad is None:
                continue
            momentum = self._momentum(i, weight, weight.grad)
            step, rate = momentum, self.learning_rate * self.learning_rate_factor
            if i in self._step:
                evidence = momentum if self.cg_on_momentum else weight.grad
                self._fade(self._left[i], evidence @ evidence.T, self.beta3)
                self._fade(self._right[i], evidence.T @ evidence, self.beta3)
                if self.n_steps_done == 0:
                    continue
                step = self._fade(self._step[i], self._left_root[i] @ momentum @ self._right_root[i], self.beta_shampoo)
                length = float(step.norm())
                if self.frobenius_normalization and length > 0.0:
                    rate *= float(momentum.norm()) / length
            weight.copy_(decayed(weight, rate, self.relative_decay, self.absolute_decay) - rate * step)
        self._renew_roots()

    def _momentum(self, i: int, weight: Tensor, gradient: Tensor) -> Tensor:
        gradient = gradient + self.l2_reg * weight
        first = self._fade(self._first[i], gradient, self.beta1)
        second = self._fade(self._second[i], gradient * gradient, self.beta2)
        return first / (second.sqrt() + self.epsilon)

    def _fade(self, mean: Tensor, value: Tensor, beta: float) -> Tensor:
        """Take a value into a bias-corrected running mean, in place."""
        debias = 1.0 - beta ** (self.n_steps_done + 1)
        return mean.mul_(beta * (1.0 - beta**self.n_steps_done) / debias).add_((1.0 - beta) / debias * value)

    def _renew_roots(self) -> None:
        if not self._batches:
            return
        step = self.n_steps_done + 1
        turn = max(1, (10 if step < 100 else 200) // len(self._batches))
        renewed = []
        if step == 1:
            renewed = self._batches
        elif step % turn == 0:
            renewed = [self._batches[step // turn % len(self._batches)]]
        for i in (i for batch in renewed for i in batch):
            self._left_root[i].copy_(self._inverse_fourth_root(self._left[i]))
            self._right_root[i].copy_(self._inverse_fourth_root(self._right[i]))

    def _inverse_fourth_root(self, matrix: Tensor) -> Tensor:
        eye = torch.eye(len(matrix), dtype=torch.float64, device=matrix.device)
        symmetric = 0.5 * (matrix + matrix.T).double() * (1.0 - self.identity) + self.identity * eye
        if not symmetric.isfinite().all():
            return symmetric  # a bad gradient shows in the weights; the caller watches for it
        values, vectors = torch.linalg.eigh(symmetric)
        # Rounding may leave an eigenvalue a little below the smallest one possible.
        return vectors * values.clamp(min=self.identity) ** -0.25 @ vectors.T

    def averaged(self) -> list[Tensor]:
        return list(self.parameters)

    def own_state(self) -> dict[str, Tensor]:
        state = numbered("first_moment", self._first) | numbered("second_moment", self._second)
        for i, step in self._step.items():
            state |= {f"{i}.step": step, f"{i}.left": self._left[i], f"{i}.right": self._right[i]}
            state |= {f"{i}.left_root": self._left_root[i], f"{i}.right_root": self._right_root[i]}
        return state
