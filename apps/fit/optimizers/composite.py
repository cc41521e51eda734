"""Different optimizers for different parameters (tiny-cuda-nn).

{"otype": "Composite", "nested": [
    {"otype": "Adam", "learning_rate": 1e-3, "n_params_to_optimize": 10240},
    {"otype": "SGD", "learning_rate": 1e-1, "n_params_to_optimize": 524288}]}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.checks import expect_int
from fieldforge.kernels.cpu_training import Moved, Rule
from fieldforge.registry import build, register


@register("optimizer", "Composite")
class Composite(Optimizer):
    """Give each of `nested` its share of the parameters, in order: matrix parameters first, then the others.

    Args:
        parameters: what to optimize.
        nested: configurations of optimizers, each with the key ``n_params_to_optimize``: how many numbers are its
            share. A share ends where a parameter ends, and together they are all parameters.

    Raises:
        ValueError: the shares do not fit the parameters.
    """

    otype = "Composite"

    def __init__(self, parameters: Parameters, *, nested: Sequence[Mapping[str, Any]]) -> None:
        super().__init__(parameters)
        if not nested:
            raise ValueError("nested: expected at least one optimizer, got none")
        self.nested: list[dict[str, Any]] = []
        waiting = [(w, True) for w in parameters.matrix] + [(w, False) for w in parameters.other]
        for i, config in enumerate(nested):
            n_wanted = expect_int(f"nested[{i}].n_params_to_optimize", config.get("n_params_to_optimize", 0), 0)
            share, n_given = [], 0
            while waiting and n_given < n_wanted:
                share.append(waiting.pop(0))
                n_given += share[-1][0].numel()
            if n_given != n_wanted:
                reason = f"its last parameter ends at {n_given}" if n_given > n_wanted else f"only {n_given} are left"
                raise ValueError(f"nested[{i}].n_params_to_optimize: cannot give {n_wanted} numbers, {reason}")
            rest = {key: value for key, value in config.items() if key != "n_params_to_optimize"}
            own = Parameters(matrix=[w for w, is_matrix in share if is_matrix], other=[w for w, m in share if not m],
                             factors=parameters.factors)  # fmt: skip
            optimizer = build("optimizer", rest, path=f"nested[{i}]", parameters=own)
            self.inner[f"nested.{i}"] = optimizer
            self.nested.append({"n_params_to_optimize": n_wanted} | optimizer.config())
        if waiting:
            left = sum(w.numel() for w, _ in waiting)
            raise ValueError(f"nested: {left} of the numbers to optimize are in no share (n_params_to_optimize)")

    def update(self) -> None:
        for optimizer in self.inner.values():
            optimizer.step()

    def moved(self) -> list[Moved] | str:
        if type(self) is not Composite:
            return super().moved()
        found: list[Moved] = []
        for optimizer in self.inner.values():
            share = optimizer.moved()
            if isinstance(share, str):
                return share
            found += share
        return found

    def rules(self) -> list[Rule]:
        return [rule for optimizer in self.inner.values() for rule in optimizer.rules()]

    def averaged(self) -> list[Tensor]:
        return [average for optimizer in self.inner.values() for average in optimizer.averaged()]

    def own_state(self) -> dict[str, Tensor]:
        return {}
