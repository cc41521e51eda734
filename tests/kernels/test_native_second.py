"""Native second derivatives are the reference's: of a grid, of a network, and of both together."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from reference.activations import NATIVE as ACTIVATIONS
from torch import Tensor
from torch.func import functional_call

from fieldforge.encodings.grid import Grid, grid
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door, cpu_ops
from fieldforge.kernels.cpu_ops import GridShape, MlpShape
from fieldforge.registry import build

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

each_activation = pytest.mark.parametrize("activation", ACTIVATIONS, ids=lambda a: "-".join(map(str, a.values())))
each_interpolation = pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep", "Nearest"])
Run = Callable[[Tensor, Sequence[Tensor]], Tensor]


class Part:
    """A grid, a network or both: native in float32, and the reference with the same parameters in any precision."""

    def __init__(
        self,
        generator: torch.Generator,
        *,
        n_dims: int = 3,
        encoding: dict[str, Any] | None = None,
        network: dict[str, Any] | None = None,
        scale: tuple[float, ...] = (),
    ) -> None:
        self.n_dims = n_dims
        self.encoding, self.network, self.scale = None, None, scale
        self.parameters: list[Tensor] = []
        if encoding is not None:
            keys = {"n_levels": 3, "log2_hashmap_size": 8, "base_resolution": 3, "per_level_scale": 1.6} | encoding
            self.encoding = Grid(n_dims, **keys)
            with torch.no_grad():
                self.encoding.table.uniform_(-1, 1, generator=generator)
            self.parameters.append(self.encoding.table.detach())
            self.shape = GridShape(
                tuple(self.encoding.levels), n_dims, self.encoding.n_features_per_level, self.encoding.interpolation
            )
        if network is not None:
            n_in = n_dims if self.encoding is None else self.encoding.n_output_dims
            keys = {"n_neurons": 13, "n_hidden_layers": 2, "has_bias": True} | network
            self.network = MLP(n_in, keys.pop("n_outputs", 2), generator=generator, **keys)
            self.parameters += [p.detach() for group in cpu_ops.parameters_of(self.network) for p in group]

    @property
    def n_outputs(self) -> int:
        part = self.network or self.encoding
        assert part is not None
        return part.n_output_dims

    def native(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        if self.network is None:
            assert self.encoding is not None
            return cpu_ops.grid(x, parameters[0], self.encoding.levels, self.encoding.interpolation, reference=grid)
        described = cpu_ops.describe_mlp(self.network)
        assert not isinstance(described, str)
        keys = {key: getattr(described, key) for key in MlpShape.__dataclass_fields__}
        keys |= {"output_scale": self.scale, "output_offset": tuple(0.5 for _ in self.scale)}
        shape, n_layers = MlpShape(**keys), described.n_layers
        if self.encoding is None:
            weights, biases = parameters[:n_layers], parameters[n_layers:]
            return cpu_ops.mlp(x, weights, biases, shape, reference=lambda x, w, b: self.reference(x, (*w, *b)))
        table, *rest = parameters
        return cpu_ops.field(
            x, table, self.shape, rest[:n_layers], rest[n_layers:], shape,
            reference=lambda x, t, w, b: self.reference(x, (t, *w, *b)),
        )  # fmt: skip

    def reference(self, x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        rest = list(parameters)
        if self.encoding is not None:
            x = grid(x, rest.pop(0), self.encoding.levels, self.encoding.interpolation)
        if self.network is None:
            return x
        n_layers = len(self.network.layers)
        names = [f"layers.{i}.{kind}" for kind in ("weight", "bias") for i in range(n_layers)]
        out: Tensor = functional_call(self.network, dict(zip(names, rest, strict=False)), x)
        return out * torch.tensor(self.scale, dtype=out.dtype) + 0.5 if self.scale else out


def second(run: Run, x: Tensor, parameters: Sequence[Tensor], grad: Tensor, cotangent: Tensor) -> list[Tensor]:
    """Value and gradient in x, and from its cotangent the gradients in grad, x and the parameters."""
    x, grad = x.clone().requires_grad_(), grad.clone().requires_grad_()
    parameters = [p.clone().requires_grad_() for p in parameters]
    out = run(x, parameters)
    (slope,) = torch.autograd.grad(out, x, grad, create_graph=True)
    wanted = [grad, x, *parameters]
    return [slope.detach(), *torch.autograd.grad(slope, wanted, cotangent, materialize_grads=True)]


def assert_close(got: Tensor, expected: Tensor, tolerance: float) -> None:
    """Element-wise against the largest element, and as a vector: direction and length."""
    assert got.shape == expected.shape
    got, expected = got.double(), expected.double()
    if expected.numel() == 0 or expected.abs().max() == 0:
        assert torch.equal(got, expected)
        return
    assert (got - expected).abs().max() <= 3 * tolerance * expected.abs().max()
    assert (got - expected).norm() <= tolerance * expected.norm()
    cosine = float((got * expected).sum() / (got.norm() * expected.norm()))
    assert cosine == pytest.approx(1, abs=1e-8)


def assert_agree(part: Part, x: Tensor, generator: torch.Generator, tolerance: float, exact: bool = True) -> None:
    """In float64 where positions on the lattice are not rounded to float32, or do not matter (`exact`)."""
    grad = torch.randn(len(x), part.n_outputs, generator=generator)
    cotangent = torch.randn(x.shape, generator=generator)
    got = second(part.native, x, part.parameters, grad, cotangent)
    dtype = torch.float64 if exact else torch.float32
    expected = second(
        part.reference, x.to(dtype), [p.to(dtype) for p in part.parameters], grad.to(dtype), cotangent.to(dtype)
    )
    for one, other in zip(got, expected, strict=True):
        assert_close(one, other, tolerance)


@each_activation
@pytest.mark.parametrize("output", ["None", "Sigmoid"])
def test_a_network_with_every_activation(activation: dict[str, Any], output: str, generator: torch.Generator) -> None:
    part = Part(generator, network={"activation": activation, "output_activation": output})
    x = 2 * torch.rand(150, 3, generator=generator) - 1
    # SPDER's second derivative is infinite at 0: rounding z shows
    assert_agree(part, x, generator, 1e-3 if activation["otype"] == "SPDER" else 3e-5)


@each_activation
def test_second_derivatives_of_activations_are_accurate_everywhere(activation: dict[str, Any]) -> None:
    part = build("activation", activation)
    name, number, _ = cpu_ops.describe_activation(part) or ("", 0.0, 0.0)
    z = torch.cat([torch.linspace(-20, 20, 4001), torch.linspace(-1e-3, 1e-3, 101), torch.logspace(-11, 1.3, 300)])
    if "omega" in activation:
        z = z[z.abs() < 5]
    z = z[(z != 0) & (z.abs() > 1e-10)] if activation["otype"] == "SPDER" else z
    shape = MlpShape((1, 1), output_activation=name, output_number=number)
    one = torch.ones(1, 1)

    def native(x: Tensor, parameters: Sequence[Tensor]) -> Tensor:
        return cpu_ops.mlp(x, parameters, [], shape, reference=lambda x, w, b: x)

    got = second(native, z[:, None], [one], torch.ones(len(z), 1), torch.ones(len(z), 1))[2][:, 0].double()
    exact = z.double().requires_grad_()
    (slope,) = torch.autograd.grad(part(exact).sum(), exact, create_graph=True)
    expected = torch.zeros_like(exact)
    if slope.requires_grad:
        (expected,) = torch.autograd.grad(slope.sum(), exact, materialize_grads=True)
    visible = expected.abs() < 3e38
    # a few units in the last place of the result or of what is subtracted to get it
    step = {"GELU": 4.0, "Tanh": 2.0, "Sigmoid": 1.0, "SiLU": 20.0, "Softplus": 4.0}
    step |= {"Sine": 200.0, "FINER": 4000.0, "SPDER": 200.0}
    slack = 4e-7 * step.get(str(activation["otype"]), 0.0) + 1e-30
    assert ((got - expected).abs() <= 2e-5 * expected.abs() + slack)[visible].all()


@each_activation
@each_interpolation
@pytest.mark.parametrize("n_dims", [1, 2, 3, 4])
def test_a_network_behind_a_grid(
    n_dims: int, interpolation: str, activation: dict[str, Any], generator: torch.Generator
) -> None:
    part = Part(generator, n_dims=n_dims, encoding={"interpolation": interpolation}, network={"activation": activation})
    x = torch.rand(40, n_dims, generator=generator)
    assert_agree(part, x, generator, 1e-4)


@each_interpolation
@pytest.mark.parametrize("kind", ["Hash", "Dense", "Tiled"])
@pytest.mark.parametrize("n_dims", [1, 2, 3, 4])
def test_a_grid_alone(n_dims: int, kind: str, interpolation: str, generator: torch.Generator) -> None:
    for n_features in (1, 2, 4):
        encoding = {"type": kind, "interpolation": interpolation, "n_features_per_level": n_features}
        part = Part(generator, n_dims=n_dims, encoding=encoding)
        assert_agree(part, torch.rand(70, n_dims, generator=generator), generator, 1e-5)


@each_interpolation
def test_at_cell_boundaries_and_outside_the_cube(interpolation: str, generator: torch.Generator) -> None:
    for network in (None, {"activation": "Softplus"}):
        part = Part(generator, encoding={"interpolation": interpolation}, network=network)
        assert part.encoding is not None
        scale = part.encoding.levels[0].scale
        x = torch.randint(-2, 4, (200, 3), generator=generator) - 0.5
        inside = 6 * torch.rand(100, 3, generator=generator) - 3
        assert_agree(part, torch.cat([x / scale, inside, torch.zeros(1, 3), torch.ones(1, 3)]), generator, 2e-5, False)


@pytest.mark.parametrize("n_points", [0, 1, 15, 17, 2003])
@pytest.mark.parametrize(
    ("width", "n_hidden", "n_outputs"), [(64, 2, 1), (1, 1, 1), (257, 1, 17), (5, 0, 3), (17, 3, 5)]
)
def test_odd_sizes(n_points: int, width: int, n_hidden: int, n_outputs: int, generator: torch.Generator) -> None:
    network = {"n_neurons": width, "n_hidden_layers": n_hidden, "n_outputs": n_outputs, "activation": "Tanh"}
    for encoding in (None, {"interpolation": "Smoothstep"}):
        for has_bias in (False, True):
            part = Part(generator, encoding=encoding, network=network | {"has_bias": has_bias})
            assert_agree(part, torch.rand(n_points, 3, generator=generator), generator, 3e-5)


def test_scaled_outputs(generator: torch.Generator) -> None:
    for output in ("None", "Sigmoid"):
        part = Part(generator, network={"activation": "SiLU", "output_activation": output}, scale=(2.0, -3.0))
        assert_agree(part, torch.rand(33, 3, generator=generator), generator, 1e-5)


@pytest.mark.parametrize("interpolation", ["Linear", "Smoothstep"])
def test_the_gradient_of_an_eikonal_loss(interpolation: str, generator: torch.Generator) -> None:
    part = Part(
        generator, encoding={"interpolation": interpolation}, network={"activation": "Softplus", "n_outputs": 1}
    )
    x = torch.rand(500, 3, generator=generator)
    results = []
    for run, dtype in ((part.native, torch.float32), (part.reference, torch.float64)):
        point = x.to(dtype).requires_grad_()
        parameters = [p.to(dtype).requires_grad_() for p in part.parameters]
        distance = run(point, parameters)
        (normal,) = torch.autograd.grad(distance.sum(), point, create_graph=True)
        loss = (normal.norm(dim=-1) - 1).square().mean() + distance.square().mean()
        results.append(torch.autograd.grad(loss, [point, *parameters]))
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected, 1e-4)


def test_normals_of_several_outputs_and_their_values(generator: torch.Generator) -> None:
    for network in (None, {"activation": "ReLU", "n_outputs": 3}, {"activation": "Tanh", "n_outputs": 3}):
        for encoding in ({"interpolation": "Smoothstep"}, None):
            if network is None and encoding is None:
                continue
            part = Part(generator, encoding=encoding, network=network)
            x = torch.rand(50, 3, generator=generator)
            results = []
            for run, dtype in ((part.native, torch.float32), (part.reference, torch.float64)):
                point = x.to(dtype).requires_grad_()
                parameters = [p.to(dtype).requires_grad_() for p in part.parameters]
                out = run(point, parameters)
                loss = out.sin().mean()
                for channel in range(3):
                    (normal,) = torch.autograd.grad(out[:, channel].sum(), point, create_graph=True)
                    loss = loss + (channel + 1) * normal.square().mean()
                once = torch.autograd.grad(loss, [point, *parameters], retain_graph=True)
                again = torch.autograd.grad(loss, [point, *parameters])
                assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))
                results.append(once)
            for got, expected in zip(*results, strict=True):
                assert_close(got, expected, 2e-5)


def test_gradients_of_gradients_by_finite_differences(generator: torch.Generator) -> None:
    """The reference that the native derivatives are held to is itself right."""
    for encoding in (None, {"interpolation": "Linear"}, {"interpolation": "Smoothstep"}):
        part = Part(generator, n_dims=2, encoding=encoding, network={"activation": "Tanh", "n_neurons": 3})
        x = torch.rand(3, 2, generator=generator, dtype=torch.float64, requires_grad=True)
        weights = [p.double().requires_grad_() for p in part.parameters[-4:]]
        fixed = [p.double() for p in part.parameters[:-4]]
        assert torch.autograd.gradgradcheck(
            lambda x, *w, part=part, fixed=fixed: part.reference(x, [*fixed, *w]), (x, *weights)
        )


def test_any_number_of_threads_gives_the_same_bits(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    part = Part(generator, encoding={"interpolation": "Smoothstep"}, network={"activation": "Softplus"})
    alone = Part(generator, encoding={"interpolation": "Smoothstep"})
    x = torch.rand(2003, 3, generator=generator)
    results = []
    for n_threads in ("1", "2", "3"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        results.append(
            [t for p in (part, alone) for t in second(p.native, x, p.parameters, torch.ones(2003, p.n_outputs), x)]
        )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_a_third_derivative(generator: torch.Generator) -> None:
    for encoding in (None, {"interpolation": "Smoothstep"}):
        part = Part(generator, n_dims=2, encoding=encoding, network={"activation": "Tanh", "n_outputs": 1})
        x = torch.rand(20, 2, generator=generator)
        results = []
        for run, dtype in ((part.native, torch.float32), (part.reference, torch.float64)):
            point = x.to(dtype).requires_grad_()
            parameters = [p.to(dtype).requires_grad_() for p in part.parameters]
            (slope,) = torch.autograd.grad(run(point, parameters).sum(), point, create_graph=True)
            (bend,) = torch.autograd.grad(slope.square().sum(), point, create_graph=True)
            results.append(torch.autograd.grad(bend.square().sum(), [point, *parameters], materialize_grads=True))
        for got, expected in zip(*results, strict=True):
            assert_close(got, expected, 1e-4)


def test_gradients_by_torch_func(generator: torch.Generator) -> None:
    part = Part(generator, encoding={"interpolation": "Smoothstep"}, network={"activation": "Tanh"})
    x = torch.rand(20, 3, generator=generator)

    def bend(run: Run, x: Tensor) -> Tensor:
        slope = torch.func.grad(lambda x: run(x, part.parameters).sum())
        found: Tensor = torch.func.grad(lambda x: slope(x).square().sum())(x)
        return found

    assert_close(bend(part.native, x), bend(part.reference, x), 2e-5)


def test_a_loss_on_gradients_of_parameters(generator: torch.Generator) -> None:
    part = Part(generator, encoding={"interpolation": "Smoothstep"}, network={"activation": "Tanh"})
    x = torch.rand(20, 3, generator=generator)
    results = []
    for run, dtype in ((part.native, torch.float32), (part.reference, torch.float64)):
        point = x.to(dtype).requires_grad_()
        parameters = [p.to(dtype).requires_grad_() for p in part.parameters]
        found = torch.autograd.grad(run(point, parameters).square().sum(), [point, *parameters], create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in found), [point, *parameters]))
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected, 1e-4)


def test_an_input_computed_from_a_parameter_has_its_own_share_only(generator: torch.Generator) -> None:
    """x depends on a weight that the network reads too: the path through x must not be counted twice."""
    part = Part(generator, n_dims=2, network={"activation": "Tanh", "n_outputs": 1})
    x = torch.rand(20, 2, generator=generator)
    results = []
    for run, dtype in ((part.native, torch.float32), (part.reference, torch.float64)):
        parameters = [p.to(dtype).requires_grad_() for p in part.parameters]
        point = x.to(dtype) + parameters[0].mean()
        (slope,) = torch.autograd.grad(run(point, parameters).sum(), parameters[0], create_graph=True)
        results.append(torch.autograd.grad(slope.square().sum(), parameters, materialize_grads=True))
    for got, expected in zip(*results, strict=True):
        assert_close(got, expected, 1e-4)


def test_only_what_is_asked_for_is_computed(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, tuple[bool, ...]]] = []
    for name in ("first", "second"):
        whole = getattr(cpu_ops._FieldDerivatives, name)

        def noting(self: Any, *arguments: Any, name: str = name, whole: Any = whole) -> Any:
            asked.append((name, tuple(arguments[-1])))
            return whole(self, *arguments)

        monkeypatch.setattr(cpu_ops._FieldDerivatives, name, noting)
    network = {"activation": "Tanh", "n_outputs": 1, "n_hidden_layers": 1, "has_bias": False}
    part = Part(generator, encoding={"interpolation": "Smoothstep"}, network=network)
    x = torch.rand(10, 3, generator=generator, requires_grad=True)
    parameters = [p.requires_grad_() for p in part.parameters]
    out = part.native(x, parameters)
    torch.autograd.grad(out.sum(), x, retain_graph=True)  # a normal
    (normal,) = torch.autograd.grad(out.sum(), x, create_graph=True)
    loss = (normal.norm(dim=-1) - 1).square().mean()
    torch.autograd.grad(loss, parameters, retain_graph=True)
    torch.autograd.grad(loss, x, retain_graph=True)
    torch.autograd.grad(out.sum(), parameters[1])
    assert asked == [
        ("first", (True, False, False, False)),
        ("first", (True, False, False, False)),
        ("second", (False, False, True, True, True)),
        ("second", (False, True, False, False, False)),
        ("first", (False, False, True, False)),
    ]


def test_nan_in_nan_out(generator: torch.Generator) -> None:
    for encoding in (None, {"interpolation": "Linear"}, {"interpolation": "Smoothstep"}):
        part = Part(generator, encoding=encoding, network={"activation": "Softplus"})
        x = torch.rand(40, 3, generator=generator)
        grad, cotangent = torch.ones(40, 2), torch.ones(40, 3)
        x[5, 1], grad[9, 0], cotangent[13, 2] = math.nan, math.nan, math.nan
        _, to_grad, to_x, *to_parameters = second(part.native, x, part.parameters, grad, cotangent)
        assert to_grad.isnan().any(1).nonzero().flatten().tolist() == [5, 13]
        assert to_x.isnan().any(1).nonzero().flatten().tolist() == [5, 9, 13]
        assert to_parameters[-3].isnan().any()  # a hidden layer's bias


def test_a_cotangent_of_another_precision_is_an_error(generator: torch.Generator) -> None:
    part = Part(generator, network={"activation": "Tanh"})
    call = cpu_ops._FieldDerivatives(None, cpu_ops.describe_mlp(part.network), part.reference)  # type: ignore[arg-type]
    inputs, grad = (torch.rand(4, 3), None, *part.parameters), torch.ones(4, 2)
    with pytest.raises(ValueError, match=r"cotangent: expected shape \(4, 3\), got \(4, 2\)"):
        call.second(inputs, grad, torch.ones(4, 2), None, [True] * 8)
    with pytest.raises(TypeError, match="cotangent: expected float32"):
        call.second(inputs, grad, torch.ones(4, 3, dtype=torch.float64), None, [True] * 8)
