"""W4: many small networks side by side, each with points of its own."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fieldforge.apps.bench.cpu import floors
from fieldforge.apps.bench.cpu.fields import (
    BETAS,
    EPSILON,
    RATE,
    Targets,
    no_second_derivatives,
    plain_step,
    without_gradients,
)
from fieldforge.apps.bench.cpu.work import Work
from fieldforge.apps.bench.peers import PlainStack
from fieldforge.kernels.cpu_ops import MlpShape
from fieldforge.kernels.cpu_stacked import StackedAdamStep, stacked_mlp

WIDTHS = (63, 32, 32, 32, 4)


def stack_work(direction: str, n_networks: int, n: int, targets: Targets) -> Work:
    """Points fall on networks at random, so that no two have the same number of them."""
    torch.manual_seed(0)
    counts = torch.bincount(torch.randint(0, n_networks, (n,)), minlength=n_networks)
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), counts.cumsum(0)])
    model = PlainStack(WIDTHS, offsets)
    shape = MlpShape(WIDTHS, has_bias=True)
    weights = [weight.detach().transpose(1, 2).contiguous() for weight in model.weights]
    biases = [bias.detach()[:, 0].clone() for bias in model.biases]
    x, target = 2 * torch.rand(n, WIDTHS[0]) - 1, torch.rand(n, WIDTHS[-1])
    sizes = {"n_points": n, "n_networks": n_networks, "widths": list(WIDTHS)}

    def one_by_one(some: nn.Module) -> Tensor:
        assert isinstance(some, PlainStack)
        return some.one_by_one(x)

    if direction == "inference":
        return Work(
            n, sizes, targets[direction], without_gradients(lambda: model(x)),
            without_gradients(
                lambda: stacked_mlp(x, offsets, weights, biases, shape, reference=no_second_derivatives)
            ),
            others={"plain PyTorch, a network at a time": without_gradients(lambda: one_by_one(model))},
            phases=floors.stack_inference(n, n_networks, WIDTHS),
        )  # fmt: skip
    step = StackedAdamStep(weights, biases, shape, betas=BETAS, epsilon=EPSILON)
    return Work(
        n, sizes, targets[direction], plain_step(model, x, target, is_fused=True),
        lambda: step.on_points(x, offsets, target, RATE)[0],
        default_adam=plain_step(model, x, target, is_fused=False),
        others={"plain PyTorch, a network at a time": plain_step(model, x, target, is_fused=True, predict=one_by_one)},
        phases=floors.stack_step(n, n_networks, WIDTHS),
    )  # fmt: skip
