"""A fused training step is drawing, predicting, comparing, differentiating and updating, one after another."""

from __future__ import annotations

import math

import pytest
import torch
from reference.losses import evaluate
from torch import Tensor

from fieldforge.encodings.grid import Grid, grid
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door
from fieldforge.kernels.cpu_ops import GridShape, MlpShape
from fieldforge.kernels.cpu_training import AdamStep, Raster

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")


class Fields:
    """A small field twice: once in plain PyTorch float64, once for the native step."""

    def __init__(self, generator: torch.Generator, *, with_grid: bool = True, has_bias: bool = True) -> None:
        self.encoding = Grid(2, n_levels=4, log2_hashmap_size=9, base_resolution=4, per_level_scale=1.8)
        with torch.no_grad():
            self.encoding.table.uniform_(-0.5, 0.5, generator=generator)
        n_in = self.encoding.n_output_dims if with_grid else 2
        self.network = MLP(n_in, 3, n_neurons=16, n_hidden_layers=2, has_bias=has_bias, generator=generator)
        self.weights = [layer.weight.detach().clone() for layer in self.network.layers]
        self.biases = [layer.bias.detach().clone() for layer in self.network.layers] if has_bias else []
        self.table = self.encoding.table.detach().clone() if with_grid else None
        self.exact = [
            p.double().requires_grad_()
            for p in (*([] if self.table is None else [self.table]), *self.weights, *self.biases)
        ]
        self.shape = MlpShape((n_in, 16, 16, 3), "ReLU", has_bias=has_bias)
        self.grid_shape = GridShape(tuple(self.encoding.levels), 2, 2) if with_grid else None

    def step(self, **keys: object) -> AdamStep:
        return AdamStep(
            self.weights, self.biases, self.shape, table=self.table, grid_shape=self.grid_shape, **keys  # type: ignore[arg-type]
        )  # fmt: skip

    def predict(self, x: Tensor) -> Tensor:
        rest = list(self.exact)
        h = x.double()
        if self.table is not None:
            h = grid(x, rest.pop(0), self.encoding.levels, "Linear")
        weights, biases = rest[:3], rest[3:] or [torch.zeros(())] * 3
        for i, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
            h = h @ weight.t() + bias
            h = torch.relu(h) if i < 2 else h
        return h


@pytest.mark.parametrize("loss", ["L2", "L1", "Huber", "RelativeL2"])
@pytest.mark.parametrize("with_grid", [True, False])
def test_the_first_step_is_a_signed_gradient_step(loss: str, with_grid: bool, generator: torch.Generator) -> None:
    """With beta1 = beta2 = 0 the step is rate * g / (|g| + epsilon): a large epsilon lays the gradient open."""
    fields = Fields(generator, with_grid=with_grid)
    x = torch.rand(300, 2, generator=generator)
    target = torch.rand(300, 3, generator=generator)
    prediction = fields.predict(x)
    values, slope = evaluate(loss, prediction.detach().numpy(), target.double().numpy(), [1.0] * 300)
    if loss == "Huber":
        difference = prediction.detach() - target.double()
        inside = difference.clamp(-0.1, 0.1)
        values = (inside * (2 * difference - inside)).mean(1).numpy()
        slope = (2 * inside / 900).numpy()
    gradients = torch.autograd.grad(prediction, fields.exact, torch.as_tensor(slope))
    before = [p.detach().clone() for p in fields.exact]
    step = fields.step(loss=loss, huber_delta=0.1, betas=(0.0, 0.0), epsilon=1e6)
    sample_loss = torch.empty(300)
    mean_loss, squared_error = step.on_points(x, target, 1e6, sample_loss=sample_loss)
    assert mean_loss == pytest.approx(values.mean(), rel=1e-5)
    assert sample_loss.tolist() == pytest.approx(values.tolist(), rel=1e-4, abs=1e-6)
    assert squared_error == pytest.approx(float((prediction.detach() - target).square().mean()), rel=1e-5)
    for old, new, gradient in zip(before, step.parameters, gradients, strict=True):
        moved = old - new.double()
        assert (moved - gradient).norm() <= 2e-4 * gradient.norm() + 1e-7


@pytest.mark.parametrize("with_grid", [True, False])
def test_many_steps_follow_adam(with_grid: bool, generator: torch.Generator) -> None:
    fields = Fields(generator, with_grid=with_grid)
    step = fields.step(l2=1e-3, epsilon=1e-4)
    n_tables = 1 if with_grid else 0
    m = [torch.zeros_like(p) for p in fields.exact]
    v = [torch.zeros_like(p) for p in fields.exact]
    for t in range(1, 11):
        x = torch.rand(200, 2, generator=generator)
        target = torch.stack([x[:, 0], x[:, 1] ** 2, x.prod(1)], 1)
        loss = (fields.predict(x) - target).square().mean()
        gradients = torch.autograd.grad(loss, fields.exact)
        expected = float(loss.detach())
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(fields.exact, gradients, strict=True)):
                g = g + (1e-3 * p if i >= n_tables else 0)
                m[i] = 0.9 * m[i] + 0.1 * g
                v[i] = 0.99 * v[i] + 0.01 * g * g
                rate = 1e-2 * math.sqrt(1 - 0.99**t) / (1 - 0.9**t)
                p -= rate * m[i] / (v[i].sqrt() + 1e-4)
        got, _ = step.on_points(x, target, 1e-2)
        assert got == pytest.approx(expected, rel=1e-4)
    assert step.n_steps == 10
    for exact, native in zip(fields.exact, step.parameters, strict=True):
        assert (exact - native.double()).norm() <= 1e-4 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.float32])
def test_a_raster_gives_its_samples_at_the_centres_of_its_cells(dtype: torch.dtype, generator: torch.Generator) -> None:
    height, width = 7, 11
    stored = torch.randint(0, 200, (height, width, 3), generator=generator)
    raster = Raster(stored.to(dtype), scale=(1 / 255, 1 / 128, 2.0), offset=(0.0, -1.0, 0.5))
    index = torch.randint(0, height * width, (500,), generator=generator)
    row, column = index // width, index % width
    x = torch.stack([(column + 0.5) / width, (row + 0.5) / height], 1)
    target = stored[row, column].float() * torch.tensor(raster.scale) + torch.tensor(raster.offset)
    one, other = Fields(torch.Generator().manual_seed(1)), Fields(torch.Generator().manual_seed(1))
    step, plain_step = one.step(), other.step()
    from_raster = step.on_raster(raster, index, 1e-2)
    from_points = plain_step.on_points(x, target, 1e-2)
    assert from_raster == pytest.approx(from_points, rel=1e-6)
    for a, b in zip(step.parameters, plain_step.parameters, strict=True):
        assert torch.allclose(a, b, rtol=0, atol=1e-5)


def test_a_step_that_cannot_be_taken_changes_nothing(generator: torch.Generator) -> None:
    fields = Fields(generator)
    step = fields.step()
    before = [p.clone() for p in step.parameters]
    raster = Raster(torch.zeros(4, 4, 3), (1.0,) * 3, (0.0,) * 3)
    for bad in (16, -1, 2**62):
        with pytest.raises(IndexError, match="outside the raster"):
            step.on_raster(raster, torch.tensor([0, bad, 3]), 1e-2)
    x = torch.rand(20, 2, generator=generator)
    loss, _ = step.on_points(x, torch.full((20, 3), math.nan), 1e-2)
    assert math.isnan(loss)
    assert step.n_steps == 0
    assert all(torch.equal(a, b) for a, b in zip(before, step.parameters, strict=True))


def test_a_picture_is_learnt(generator: torch.Generator) -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    picture = torch.stack([(x / 5).sin(), (y / 7).cos(), ((x + y) / 9).sin()], -1) * 100 + 128
    raster = Raster(picture.to(torch.uint8), (1 / 255,) * 3, (0.0,) * 3)
    step = Fields(generator).step()
    losses = [step.on_raster(raster, torch.randint(0, 1024, (512,), generator=generator), 1e-2)[0] for _ in range(150)]
    assert sum(losses[-10:]) / 10 < 1e-3 < losses[0]


def test_bad_calls_are_errors_before_the_kernel(generator: torch.Generator) -> None:
    fields = Fields(generator)
    step = fields.step()
    with pytest.raises(ValueError, match=r"target: expected 5 rows"):
        step.on_points(torch.rand(5, 2), torch.rand(4, 3), 1e-2)
    with pytest.raises(ValueError, match=r"n: expected an integer of at least 1"):
        step.on_points(torch.rand(0, 2), torch.rand(0, 3), 1e-2)
    with pytest.raises(ValueError, match=r"raster: expected 2 axes and 3 channels, got 1 and 3"):
        step.on_raster(Raster(torch.zeros(4, 3), (1.0,) * 3, (0.0,) * 3), torch.zeros(1, dtype=torch.int64), 1e-2)
    with pytest.raises(TypeError, match=r"values: expected uint8, uint16 or float32"):
        Raster(torch.zeros(4, 4, 3, dtype=torch.float64), (1.0,) * 3, (0.0,) * 3)
    with pytest.raises(ValueError, match=r"weights\[0\]: expected a contiguous tensor"):
        AdamStep([fields.weights[0].t().contiguous().t(), *fields.weights[1:]], fields.biases, fields.shape,
                 table=fields.table, grid_shape=fields.grid_shape)  # fmt: skip
    with pytest.raises(ValueError, match=r"table: a grid needs both"):
        AdamStep(fields.weights, fields.biases, fields.shape, table=fields.table)
