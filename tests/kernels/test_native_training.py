"""A fused training step is drawing, predicting, comparing, differentiating and updating, one after another."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from reference.losses import evaluate
from torch import Tensor

from fieldforge.encodings.grid import Grid, grid
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door
from fieldforge.kernels.cpu_ops import GridShape, MlpShape
from fieldforge.kernels.cpu_training import LOSSES, Draw, Moved, Mover, Rule, TrainingStep

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")


def sgd(step: TrainingStep, rate: float = 1.0, l2: float = 0.0) -> list[Rule]:
    return [Rule(Mover.SGD, rate=rate, l2=l2)] * len(step.parameters)


def adam(step: TrainingStep, t: int, *, epsilon: float = 1e-15, l2: float = 0.0) -> list[Rule]:
    """At a learning rate of 1e-2; without L2 for a table."""
    rate = 1e-2 * math.sqrt(1 - 0.99**t) / (1 - 0.9**t)
    rule = Rule(Mover.ADAM, rate=rate, beta1=0.9, beta2=0.99, epsilon=epsilon, l2=l2)
    return [rule._replace(l2=0.0) if step.grid_shape and i == 0 else rule for i in range(len(step.parameters))]


class Fields:
    """A small field twice: once in plain PyTorch float64, once for the native step."""

    def __init__(
        self,
        generator: torch.Generator,
        *,
        with_grid: bool = True,
        has_bias: bool = True,
        output: tuple[float, float] = (1.0, 0.0),
    ) -> None:
        self.output = output
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
        scale, offset = ((one,) * 3 for one in output)
        self.shape = MlpShape((n_in, 16, 16, 3), "ReLU", has_bias=has_bias, output_scale=scale, output_offset=offset)
        self.grid_shape = GridShape(tuple(self.encoding.levels), 2, 2) if with_grid else None

    def step(self, *, n_kept: int = 2, **keys: object) -> TrainingStep:
        """A step that keeps `n_kept` of moments and average beside each parameter."""
        parameters = [*([] if self.table is None else [self.table]), *self.weights, *self.biases]
        beside = [Moved(*(torch.zeros_like(p) for _ in range(n_kept))) for p in parameters]
        return TrainingStep(
            self.weights, self.biases, self.shape, table=self.table, grid_shape=self.grid_shape,
            **{"moved": beside} | keys,  # type: ignore[arg-type]
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
        return h * self.output[0] + self.output[1]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("with_grid", [True, False])
def test_a_step_of_length_one_is_the_gradient(loss: str, with_grid: bool, generator: torch.Generator) -> None:
    fields = Fields(generator, with_grid=with_grid, output=(0.5, 2.0))  # some losses want positive predictions
    x = torch.rand(300, 2, generator=generator)
    target = 1 + 2 * torch.rand(300, 3, generator=generator)
    prediction = fields.predict(x)
    values, slope = evaluate(loss, prediction.detach().numpy(), target.double().numpy(), [1.0] * 300)
    if loss == "Huber":
        difference = prediction.detach() - target.double()
        inside = difference.clamp(-0.1, 0.1)
        values = (inside * (2 * difference - inside)).mean(1).numpy()
        slope = (2 * inside / 900).numpy()
    gradients = torch.autograd.grad(prediction, fields.exact, torch.as_tensor(slope))
    before = [p.detach().clone() for p in fields.exact]
    step = fields.step(n_kept=0, loss=loss, huber_delta=0.1)
    sample_loss = torch.empty(300)
    mean_loss, squared_error, has_moved = step.on_points(x, target, sgd(step), sample_loss=sample_loss)
    assert has_moved
    assert mean_loss == pytest.approx(values.mean(), rel=1e-5)
    assert sample_loss.tolist() == pytest.approx(values.tolist(), rel=1e-4, abs=1e-6)
    assert squared_error == pytest.approx(float((prediction.detach() - target).square().mean()), rel=1e-5)
    for old, new, gradient in zip(before, step.parameters, gradients, strict=True):
        moved = old - new.double()
        assert (moved - gradient).norm() <= 2e-4 * gradient.norm() + 1e-7 * old.norm()


def test_the_logarithm_of_a_loss_is_exact_over_its_range(generator: torch.Generator) -> None:
    """log1p through a network that passes its input on; near one, where terms cancel, and far out."""
    error = torch.cat([torch.logspace(-20, 30, 500), 1 + torch.linspace(-1e-3, 1e-3, 101), torch.tensor([0.0])])
    identity = torch.ones(1, 1)
    step = TrainingStep([identity], [], MlpShape((1, 1)), moved=[Moved()], loss="LogL1")
    got = torch.empty(len(error))
    step.on_points(error[:, None], torch.zeros(len(error), 1), sgd(step, 0.0), sample_loss=got)
    torch.testing.assert_close(got.double(), error.double().log1p(), rtol=4e-7, atol=1e-37)
    step = TrainingStep([identity], [], MlpShape((1, 1)), moved=[Moved()], loss="CrossEntropy")
    error = error[:-1]
    got = got[:-1]
    step.on_points(error[:, None], -torch.ones(len(error), 1), sgd(step, 0.0), sample_loss=got)
    torch.testing.assert_close(got.double(), error.double().log(), rtol=6e-7, atol=3e-9)
    for bad in (0.0, -1.0, math.nan, math.inf):
        loss = step.on_points(torch.full((3, 1), bad), torch.ones(3, 1), sgd(step)).loss
        assert not math.isfinite(loss)


@pytest.mark.parametrize("with_grid", [True, False])
def test_many_steps_follow_adam(with_grid: bool, generator: torch.Generator) -> None:
    fields = Fields(generator, with_grid=with_grid)
    step = fields.step()
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
        got = step.on_points(x, target, adam(step, t, l2=1e-3, epsilon=1e-4)).loss
        assert got == pytest.approx(expected, rel=1e-4)
    for exact, native in zip(fields.exact, step.parameters, strict=True):
        assert (exact - native.double()).norm() <= 1e-4 * exact.norm()


def test_an_average_takes_its_share_of_the_moved_parameters(generator: torch.Generator) -> None:
    """Whatever moves them, or nothing does."""
    fields = Fields(generator)
    step = fields.step(n_kept=3)
    averages = [one.average for one in step.moved if one.average is not None]
    for average in averages:
        average.fill_(1.0)
    kinds = (Mover.ADAM, Mover.SGD, Mover.NONE)
    for shift in range(3):
        before = [p.clone() for p in step.parameters]
        old = [average.clone() for average in averages]
        rules = [rule._replace(mover=kinds[(i + shift) % 3], newest=0.25) for i, rule in enumerate(adam(step, 1))]
        x = torch.rand(50, 2, generator=generator)
        step.on_points(x, x[:, [0, 1, 0]], rules)
        for p, start, average, was, rule in zip(step.parameters, before, averages, old, rules, strict=True):
            assert torch.equal(p, start) == (rule.mover == Mover.NONE)
            torch.testing.assert_close(average, was + 0.25 * (p - was))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("shape", [(1, 1, 1), (7, 11, 3), (64, 32, 4), (5, 3), (3, 5, 4, 2)])
def test_an_epoch_of_a_draw_is_every_sample_once_at_its_centre(dtype: type, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    stored = (rng.random(shape) * 200).astype(dtype)
    n, n_axes = stored[..., 0].size, len(shape) - 1
    x, values = (torch.cat(parts) for parts in zip(*map(Draw(stored, 100, n, 3).batch, (0, 1)), strict=True))
    sizes = torch.tensor(shape[-2::-1])
    place = x * sizes - 0.5
    assert torch.allclose(place, place.round(), atol=1e-4)
    where = place.round().long()
    number = torch.zeros(2 * n, dtype=torch.int64)
    for axis in reversed(range(n_axes)):
        number = number * sizes[axis] + where[:, axis]
    for epoch in number.split(n):
        assert torch.equal(epoch.sort().values, torch.arange(n))
    expected = torch.from_numpy(stored.astype(np.float32)).reshape(n, -1)[number] / 100
    assert torch.equal(values, expected)


def test_a_drawn_step_is_a_step_on_what_is_drawn() -> None:
    draw = Draw(np.random.default_rng(0).integers(0, 255, (9, 13, 3), dtype=np.uint8), 255, 700, seed=2, n_moved=200)
    steps = [Fields(torch.Generator().manual_seed(1)).step() for _ in range(2)]
    for number in (0, 5, 1000):
        rules = adam(steps[0], number + 1)
        assert steps[0].on_draw(draw, number, rules) == steps[1].on_points(*draw.batch(number), rules)
    for a, b in zip(steps[0].parameters, steps[1].parameters, strict=True):
        assert torch.equal(a, b)


def test_a_step_that_cannot_be_taken_changes_nothing(generator: torch.Generator) -> None:
    fields = Fields(generator)
    step = fields.step(n_kept=3)
    everything = [*step.parameters, *(tensor for one in step.moved for tensor in one if tensor is not None)]
    before = [p.clone() for p in everything]
    x = torch.rand(20, 2, generator=generator)
    loss, _, has_moved = step.on_points(x, torch.full((20, 3), math.nan), adam(step, 1))
    assert math.isnan(loss)
    assert not has_moved
    loss, _, has_moved = step.on_points(x, torch.ones(20, 3), adam(step, 1), may_move=lambda: False)
    assert math.isfinite(loss)
    assert not has_moved

    def stumble() -> bool:
        raise KeyError("a mistake of the caller's")

    with pytest.raises(KeyError, match="a mistake of the caller's"):
        step.on_points(x, torch.ones(20, 3), adam(step, 1), may_move=stumble)
    assert all(torch.equal(a, b) for a, b in zip(before, everything, strict=True))
    assert step.on_points(x, torch.ones(20, 3), adam(step, 1), may_move=lambda: True).has_moved


def test_a_picture_is_learnt(generator: torch.Generator) -> None:
    y, x = torch.meshgrid(torch.arange(32.0), torch.arange(32.0), indexing="ij")
    picture = torch.stack([(x / 5).sin(), (y / 7).cos(), ((x + y) / 9).sin()], -1) * 100 + 128
    draw = Draw(picture.to(torch.uint8).numpy(), 255, 512, seed=0, n_moved=100)
    step = Fields(generator).step()
    losses = [step.on_draw(draw, t, adam(step, t + 1)).loss for t in range(150)]
    assert sum(losses[-10:]) / 10 < 1e-3 < losses[0]


def test_bad_calls_are_errors_before_the_kernel(generator: torch.Generator) -> None:
    fields = Fields(generator)
    step = fields.step()
    rules = adam(step, 1)
    with pytest.raises(ValueError, match=r"target: expected 5 rows"):
        step.on_points(torch.rand(5, 2), torch.rand(4, 3), rules)
    with pytest.raises(TypeError, match=r"x: expected float32 on the CPU, got torch.float64"):
        step.on_points(torch.rand(5, 2).double(), torch.rand(5, 3), rules)
    with pytest.raises(ValueError, match=r"n: expected an integer of at least 1"):
        step.on_points(torch.rand(0, 2), torch.rand(0, 3), rules)
    with pytest.raises(ValueError, match=r"rules: expected one for each parameter"):
        step.on_points(torch.rand(5, 2), torch.rand(5, 3), rules[1:])
    with pytest.raises(ValueError, match=r"sample_loss: expected shape \(5,\), got \(4,\)"):
        step.on_points(torch.rand(5, 2), torch.rand(5, 3), rules, sample_loss=torch.empty(4))
    with pytest.raises(ValueError, match=r"draw: expected 2 axes and 3 channels, got 1 and 3"):
        step.on_draw(Draw(np.zeros((4, 3), np.uint8), 255, 10, 0), 0, rules)
    with pytest.raises(ValueError, match=r"step: expected an integer of at least 0"):
        step.on_draw(Draw(np.zeros((4, 4, 3), np.uint8), 255, 10, 0), -1, rules)
    with pytest.raises(ValueError, match=r"weights\[0\]: expected a contiguous tensor"):
        TrainingStep([fields.weights[0].t().contiguous().t(), *fields.weights[1:]], fields.biases, fields.shape,
                     table=fields.table, grid_shape=fields.grid_shape, moved=step.moved)  # fmt: skip
    with pytest.raises(ValueError, match=r"table: a grid needs both"):
        TrainingStep(fields.weights, fields.biases, fields.shape, table=fields.table, moved=step.moved)
    with pytest.raises(ValueError, match=r"moved: expected one for each of 7 parameters, got 6"):
        fields.step(moved=step.moved[1:])
    with pytest.raises(ValueError, match=r"first of biases\[0\]: expected shape \(16,\), got \(2,\)"):
        fields.step(moved=[*step.moved[:4], Moved(torch.zeros(2), torch.zeros(2)), *step.moved[5:]])
    without = fields.step(n_kept=0)
    with pytest.raises(ValueError, match=r"Adam needs two moments"):
        without.on_points(torch.rand(5, 2), torch.rand(5, 3), rules)


def test_what_shares_memory_is_refused(generator: torch.Generator) -> None:
    fields = Fields(generator)
    table, rest = fields.table, fields.step().moved[1:]
    assert table is not None
    with pytest.raises(ValueError, match=r"(second|first) of table: shares memory with (first|second) of table"):
        fields.step(moved=[Moved(*[torch.zeros_like(table)] * 2), *rest])
    with pytest.raises(ValueError, match=r"shares memory with"):
        fields.step(moved=[Moved(torch.zeros_like(table), torch.zeros_like(table), table), *rest])
    joined = torch.zeros(2 * table.numel() - 1)
    first, second = (joined[i : i + table.numel()].view_as(table) for i in (0, table.numel() - 1))
    with pytest.raises(ValueError, match=r"second of table: shares memory with first of table"):
        fields.step(moved=[Moved(first, second), *rest])


@pytest.mark.parametrize(
    ("keys", "error", "message"),
    [
        ({"values": np.zeros((4, 4, 3))}, TypeError, "values: expected uint8, uint16 or float32 samples, got float64"),
        ({"values": np.zeros((4, 4, 3), np.uint8).T}, ValueError, "values: expected a contiguous array"),
        ({"values": np.zeros(4, np.uint8)}, ValueError, "1 to 4 axes"),
        ({"values": np.zeros((0, 4, 3), np.uint8)}, ValueError, "at least one sample"),
        ({"one": 0.0}, ValueError, "one: "),
        ({"batch_size": 0}, ValueError, "batch_size: expected"),
        ({"n_moved": 11}, ValueError, "n_moved: expected"),
        ({"values": np.zeros((4, 3), np.uint8), "n_moved": 1}, ValueError, "n_moved: expected 0"),
    ],
)
def test_a_draw_that_cannot_be_is_refused(keys: dict[str, object], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        Draw(**{"values": np.zeros((4, 4, 3), np.uint8), "one": 255, "batch_size": 10, "seed": 0} | keys)  # type: ignore[arg-type]
