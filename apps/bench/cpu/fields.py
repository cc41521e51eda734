"""W1 to W3: fields on hash grids and plain networks, inference and training steps."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fieldforge.apps.bench.cpu import floors
from fieldforge.apps.bench.cpu.work import Run, Work
from fieldforge.apps.bench.peers import PlainHashGrid, PlainSine, plain_mlp
from fieldforge.encodings.grid import HASH_PRIMES, grid_levels
from fieldforge.kernels import cpu_ops
from fieldforge.kernels.cpu_ops import GridShape, MlpShape
from fieldforge.kernels.cpu_training import Moved, Mover, Rule, TrainingStep

N_LEVELS, N_FEATURES, BASE = 16, 2, 16
GROWTH = {2: 1.45, 3: 1.3819}
BETAS, EPSILON, RATE = (0.9, 0.99), 1e-15, 1e-4

Targets = dict[str, tuple[float, float | None]]


def grid_work(direction: str, n_dims: int, log2_size: int, n: int, n_outputs: int, targets: Targets) -> Work:
    """A hash grid 16 x 2 and an MLP 64 x 2 behind it; every level is hashed, on both sides."""
    torch.manual_seed(0)
    grid = PlainHashGrid(n_dims, N_LEVELS, N_FEATURES, log2_size, BASE, GROWTH[n_dims])
    nn.init.uniform_(grid.table, -0.1, 0.1)
    model = nn.Sequential(grid, plain_mlp(N_LEVELS * N_FEATURES, 64, 2, n_outputs))
    shape = GridShape(_hashed_levels(n_dims, log2_size), n_dims, N_FEATURES)
    mlp = MlpShape((N_LEVELS * N_FEATURES, 64, 64, n_outputs))
    table, *weights = (parameter.detach().clone() for parameter in model.parameters())
    x, target = torch.rand(n, n_dims), torch.rand(n, n_outputs)
    sizes = {"n_points": n, "n_dims": n_dims, "log2_hashmap_size": log2_size, "n_levels": N_LEVELS,
             "n_features_per_level": N_FEATURES, "base_resolution": BASE, "per_level_scale": GROWTH[n_dims],
             "widths": list(mlp.widths)}  # fmt: skip
    described = (n, n_dims, N_LEVELS, 8 * 2**log2_size, mlp.widths)
    if direction == "inference":
        ours = without_gradients(
            lambda: cpu_ops.field(x, table, shape, weights, [], mlp, reference=no_second_derivatives)
        )
        phases = floors.grid_inference(*described)
        return Work(n, sizes, targets[direction], without_gradients(lambda: model(x)), ours, phases=phases)
    return Work(
        n, sizes, targets[direction], plain_step(model, x, target, is_fused=True),
        native_step(x, target, weights, [], mlp, table=table, grid_shape=shape),
        default_adam=plain_step(model, x, target, is_fused=False), phases=floors.grid_step(*described),
    )  # fmt: skip


def network_work(
    direction: str, activation: str, widths: Sequence[int], n: int, targets: Targets, precision: str = "float32"
) -> Work:
    """A plain network on as many inputs as it is wide."""
    torch.manual_seed(0)
    has_sine = activation == "Sine"
    shape = _shape(tuple(widths), activation, 30.0 if has_sine else 0.0, precision)
    model = plain_mlp(
        widths[0], widths[1], len(widths) - 2, widths[-1],
        activation=PlainSine(30.0) if has_sine else nn.ReLU(), has_bias=True,
    )  # fmt: skip
    for number, layer in enumerate(one for one in model if isinstance(one, nn.Linear)):
        bound = (6 / layer.in_features) ** 0.5 / (30.0 if has_sine and number else 1.0)
        nn.init.uniform_(layer.weight, -bound, bound)
    weights = [one.weight.detach().clone() for one in model if isinstance(one, nn.Linear)]
    biases = [one.bias.detach().clone() for one in model if isinstance(one, nn.Linear)]
    x, target = 2 * torch.rand(n, widths[0]) - 1, torch.rand(n, widths[-1])
    sizes = {"n_points": n, "widths": list(widths), "activation": activation, "precision": precision}
    is_bfloat16 = precision == "bfloat16"
    tolerance = 0.1 if is_bfloat16 else 0.01
    if direction == "inference":
        flops = n * floors.multiply_adds(widths)
        ours = without_gradients(lambda: cpu_ops.mlp(x, weights, biases, shape, reference=no_second_derivatives))
        others = {}
        if is_bfloat16:
            half, x_half = copy.deepcopy(model).bfloat16(), x.bfloat16()
            others["plain PyTorch, bfloat16"] = without_gradients(lambda: half(x_half))
        return Work(
            n, sizes, targets[direction], without_gradients(lambda: model(x)), ours, others=others,
            phases=[floors.Phase(flops=flops, is_bfloat16=is_bfloat16)], tolerance=tolerance,
        )  # fmt: skip
    return Work(
        n, sizes, targets[direction], plain_step(model, x, target, is_fused=True),
        native_step(x, target, weights, biases, shape),
        default_adam=plain_step(model, x, target, is_fused=False),
        phases=[floors.Phase(flops=n * floors.network_step_flops(widths), is_bfloat16=is_bfloat16)],
        tolerance=tolerance,
    )  # fmt: skip


def native_step(
    x: Tensor,
    target: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    shape: MlpShape,
    *,
    table: Tensor | None = None,
    grid_shape: GridShape | None = None,
) -> Run:
    """A training step as one native call."""
    parameters = [*([] if table is None else [table]), *weights, *biases]
    moved = [Moved(torch.zeros_like(one), torch.zeros_like(one)) for one in parameters]
    step = TrainingStep(weights, biases, shape, table=table, grid_shape=grid_shape, moved=moved)
    numbers = itertools.count(1)

    def run() -> float:
        t = next(numbers)
        rate = RATE * math.sqrt(1 - BETAS[1] ** t) / (1 - BETAS[0] ** t)
        rule = Rule(Mover.ADAM, rate=rate, beta1=BETAS[0], beta2=BETAS[1], epsilon=EPSILON)
        return float(step.on_points(x, target, [rule] * len(parameters)).loss)

    return run


def plain_step(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    is_fused: bool,
    predict: Callable[[nn.Module], Tensor] | None = None,
) -> Run:
    """A training step of a copy of the model, as everybody writes it."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=BETAS, eps=EPSILON, fused=is_fused or None)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x) if predict is None else predict(model), target)
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def without_gradients(work: Callable[[], Tensor]) -> Run:
    def run() -> Tensor:
        with torch.no_grad():
            return work()

    return run


def _hashed_levels(n_dims: int, log2_size: int) -> tuple[cpu_ops.GridLevel, ...]:
    levels = grid_levels(
        n_dims, n_levels=N_LEVELS, log2_hashmap_size=log2_size, base_resolution=BASE, per_level_scale=GROWTH[n_dims]
    )
    size = 2**log2_size
    return tuple(
        dataclasses.replace(level, offset=number * size, size=size, is_hashed=True, multipliers=HASH_PRIMES[:n_dims])
        for number, level in enumerate(levels)
    )


def _shape(widths: tuple[int, ...], activation: str, omega: float, precision: str) -> MlpShape:
    return MlpShape(widths, activation, omega, omega, has_bias=True, precision=precision)


def no_second_derivatives(*_: object) -> Tensor:
    raise NotImplementedError
