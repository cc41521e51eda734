"""The native encodings are the references', in value and in every derivative, alone, joined, and before a network."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reference.encodings import frequency, one_blob, random_fourier, spherical_harmonics, triangle_wave
from torch import Tensor

from fieldforge.apps.fit.optimizers.adam import Adam
from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.backends import BackendError, choose, use_backend
from fieldforge.encodings.base import Encoding
from fieldforge.fields import fused
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door, cpu_encodings, cpu_ops
from fieldforge.kernels.cpu_training import Moved, Mover, Rule, TrainingStep
from fieldforge.registry import build

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

FORMULAS = ["Frequency", "TriangleWave", "OneBlob", "SphericalHarmonics", "RandomFourier"]
KEYS: dict[str, dict[str, Any]] = {
    "Frequency": {"n_frequencies": 7},
    "TriangleWave": {"n_frequencies": 7},
    "OneBlob": {"n_bins": 8},
    "SphericalHarmonics": {"degree": 5},
    "RandomFourier": {"n_features": 19, "sigma": 2.0},
}
GRID = {"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 7, "base_resolution": 4, "per_level_scale": 1.6}
FREQUENCY = {"otype": "Frequency", "n_frequencies": 3}
COMPOSITES: dict[str, tuple[int, dict[str, Any]]] = {
    "formulas side by side": (
        5,
        {"nested": [{"n_dims_to_encode": 2, **FREQUENCY}, {"otype": "SphericalHarmonics", "n_dims_to_encode": 3}]},
    ),
    "a grid and a direction": (
        6,
        {"nested": [{"n_dims_to_encode": 3, **GRID}, {"otype": "SphericalHarmonics", "n_dims_to_encode": 3}]},
    ),
    "two grids of overlapping coordinates and the rest": (
        4,
        {
            "nested": [
                {"n_dims_to_encode": 3, "dims_to_encode_begin": 0, **GRID},
                {"n_dims_to_encode": 2, "dims_to_encode_begin": 2, **GRID, "n_features_per_level": 1},
                {"otype": "Identity", "n_dims_to_encode": 1, "dims_to_encode_begin": 1, "scale": 2.0, "offset": -1.0},
            ]
        },
    ),
    "a product of grids": (
        4,
        {"reduction": "Product", "nested": [{"n_dims_to_encode": n, **GRID} for n in (2, 1, 1)]},
    ),
    "a sum of a grid and waves": (
        3,
        {"reduction": "Sum", "nested": [{"n_dims_to_encode": 2, **GRID}, {"n_dims_to_encode": 1, **FREQUENCY}]},
    ),
    "a product of a sum and a row of parts, beside another": (
        4,
        {
            "nested": [
                {
                    "otype": "Composite",
                    "reduction": "Product",
                    "n_dims_to_encode": 3,
                    "nested": [
                        {
                            "otype": "Composite",
                            "reduction": "Sum",
                            "n_dims_to_encode": 2,
                            "nested": [{"n_dims_to_encode": 1, **GRID}] * 2,
                        },
                        {
                            "otype": "Composite",
                            "n_dims_to_encode": 1,
                            "nested": [
                                {"n_dims_to_encode": 1, "dims_to_encode_begin": 0, "otype": "OneBlob", "n_bins": 4},
                                {"n_dims_to_encode": 1, "dims_to_encode_begin": 0, **FREQUENCY, "n_frequencies": 1},
                            ],
                        },
                    ],
                },
                {"otype": "TriangleWave", "n_dims_to_encode": 1},
            ]
        },
    ),
    "inputs of a radiance cache": (
        10,
        {"nested": [{"otype": "OneBlobFrequency", "n_dims_to_encode": 9}, {"otype": "RandomFourier", "sigma": 1.0}]},
    ),
}


def make(otype: str, n_dims: int, generator: torch.Generator, **keys: Any) -> Encoding:
    encoding: Encoding = build(
        "encoding", {"otype": otype, **(KEYS.get(otype, {}) | keys)}, n_input_dims=n_dims, generator=generator
    )
    with torch.no_grad():
        for table in encoding.parameters():
            table.uniform_(-1, 1, generator=generator)
    return encoding


def points(n_points: int, n_dims: int, otype: str, generator: torch.Generator, *, low: float, high: float) -> Tensor:
    """Float32 points; directions on the sphere, and no kinks of a triangle wave."""
    x = torch.rand(n_points, n_dims, generator=generator, dtype=torch.float64) * (high - low) + low
    if otype == "SphericalHarmonics":
        x = (torch.nn.functional.normalize(x - 0.5, dim=-1) + 1) / 2
    return x.float()


def in_float64(encoding: Encoding, x: Tensor) -> Tensor:
    """By the loops of tests/reference, point by point."""
    of_point: dict[str, Callable[[list[float]], list[float]]] = {
        "Frequency": lambda p: frequency(p, encoding.n_frequencies),
        "TriangleWave": lambda p: triangle_wave(p, encoding.n_frequencies),
        "OneBlob": lambda p: one_blob(p, encoding.n_bins),
        "SphericalHarmonics": lambda p: spherical_harmonics([2 * t - 1 for t in p], encoding.degree),
        "RandomFourier": lambda p: random_fourier(p, encoding.frequencies.double().tolist()),
    }
    rows = [of_point[encoding.otype](point) for point in x.double().tolist()]
    return torch.tensor(rows, dtype=torch.float64).reshape(len(x), encoding.n_output_dims)


def derivative_in_float64(encoding: Encoding, x: Tensor, grad: Tensor) -> Tensor:
    """Central differences of the loops; on the sphere they are taken of the reference, which goes on beyond it."""
    step, x = 1e-6, x.double()
    value = encoding if encoding.otype == "SphericalHarmonics" else lambda at: in_float64(encoding, at)
    found = torch.zeros_like(x)
    for axis in range(x.shape[1]):
        shift = torch.zeros(x.shape[1], dtype=torch.float64)
        shift[axis] = step
        found[:, axis] = ((value(x + shift) - value(x - shift)) / (2 * step) * grad).sum(1)
    return found


def values_and_gradients(run: Callable[[Tensor], Tensor], x: Tensor, tensors: list[Tensor]) -> list[Tensor]:
    x = x.detach().clone().requires_grad_()
    out = run(x)
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float32).to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, [x, *tensors], grad)]


def relative_error(got: Tensor, expected: Tensor) -> float:
    assert got.shape == expected.shape
    if expected.numel() == 0:
        return 0.0
    return float((got.double() - expected.double()).abs().max() / expected.double().abs().max().clamp_min(1e-30))


@pytest.mark.parametrize("n_points", [0, 1, 15, 17, 4099])
@pytest.mark.parametrize(
    ("otype", "n_dims"),
    [(otype, n) for otype in FORMULAS for n in (1, 2, 3, 5) if n == 3 or otype != "SphericalHarmonics"],
)
def test_value_and_gradient_are_the_references(
    otype: str, n_dims: int, n_points: int, generator: torch.Generator
) -> None:
    encoding = make(otype, n_dims, generator)
    x = points(n_points, n_dims, otype, generator, low=0.0, high=1.0)
    with use_backend("cpu"):
        got = values_and_gradients(encoding, x, [])
    with use_backend("reference"):
        expected = values_and_gradients(encoding, x, [])
    for one, other in zip(got, expected, strict=True):
        # phases of RandomFourier are rounded in turns here, in radians there
        assert relative_error(one, other) < (1.5e-5 if otype == "RandomFourier" else 5e-6)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.0, 3.0)])
@pytest.mark.parametrize("otype", FORMULAS)
def test_value_and_gradient_are_those_of_the_definition_in_float64(
    otype: str, low: float, high: float, generator: torch.Generator
) -> None:
    if otype == "OneBlob":  # the definition wraps once to either side
        low, high = max(low, -0.8), min(high, 1.8)
    encoding = make(otype, 3, generator)
    x = points(40, 3, otype, generator, low=low, high=high)
    with use_backend("cpu"):
        value, slope = values_and_gradients(encoding, x, [])
    grad = torch.randn(value.shape, generator=torch.Generator().manual_seed(3)).double()
    assert (value - in_float64(encoding, x)).abs().max() < 1e-5
    with use_backend("reference"):
        assert relative_error(slope, derivative_in_float64(encoding.double(), x, grad)) < 2e-5


@pytest.mark.parametrize("otype", FORMULAS)
def test_outside_the_domain_the_reference_is_followed(otype: str, generator: torch.Generator) -> None:
    encoding = make(otype, 3, generator)
    x = 20 * torch.rand(300, 3, generator=generator) - 10
    results = []
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            results.append(values_and_gradients(encoding, x, []))
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) < 5e-5  # of RandomFourier the reference's phases are rounded in radians


def test_high_octaves_are_reduced_exactly(generator: torch.Generator) -> None:
    encoding = make("Frequency", 1, generator, n_frequencies=64)
    x = torch.cat([torch.rand(99, generator=generator), torch.tensor([0.0, 1.0, -1.0, 1e-30, -3e7, 12345.678])])
    with use_backend("cpu"):
        got = encoding(x[:, None])
    assert (got - encoding(x[:, None].double())).abs().max() < 3e-7


def test_triangle_waves_are_the_references_to_the_last_bit(generator: torch.Generator) -> None:
    encoding = make("TriangleWave", 2, generator, n_frequencies=30)
    x = 4 * torch.rand(500, 2, generator=generator) - 2
    with use_backend("cpu"):
        got = encoding(x)
    with use_backend("reference"):
        assert torch.equal(got, encoding(x))


def test_at_the_turn_of_a_triangle_wave_the_slope_is_the_references() -> None:
    encoding = build("encoding", {"otype": "TriangleWave", "n_frequencies": 3}, n_input_dims=1)
    x = (torch.arange(-16, 17) / 8)[:, None]
    results = []
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            results.append(values_and_gradients(encoding, x, [])[1])
    assert torch.equal(*results)


@pytest.mark.parametrize("otype", FORMULAS)
def test_nan_and_infinity_do_what_they_do_in_the_reference(otype: str, generator: torch.Generator) -> None:
    encoding = make(otype, 3, generator)
    x = torch.rand(40, 3, generator=generator)
    x[3, 0], x[7, 1], x[9, 2], x[20] = math.nan, math.inf, -math.inf, math.nan
    with use_backend("cpu"):
        got = encoding(x)
    with use_backend("reference"):
        expected = encoding(x)
    assert got[20].isnan().sum() >= len(got[20]) - 1  # the zeroth harmonic is a constant
    assert torch.equal(got.isnan(), expected.isnan())


@pytest.mark.parametrize("otype", FORMULAS)
def test_second_derivatives_are_the_references(otype: str, generator: torch.Generator) -> None:
    encoding = make(otype, 3, generator)
    x = points(20, 3, otype, generator, low=0.0, high=1.0)
    weight = torch.randn(20, encoding.n_output_dims, generator=generator)
    results = []
    for backend in ("cpu", "reference"):
        at = x.clone().requires_grad_()
        with use_backend(backend):
            (slope,) = torch.autograd.grad((encoding(at) * weight).sum(), at, create_graph=True)
            results.append(slope.detach())
            if slope.requires_grad and otype != "TriangleWave":  # which has no curvature
                results.append(torch.autograd.grad(slope.square().sum(), at)[0])
    half = len(results) // 2
    for one, other in zip(results[:half], results[half:], strict=True):
        assert relative_error(one, other) < 2e-5


@pytest.mark.parametrize("n_points", [0, 1, 17, 1003])
@pytest.mark.parametrize("name", COMPOSITES)
def test_composites_are_their_parts_joined(name: str, n_points: int, generator: torch.Generator) -> None:
    n_dims, keys = COMPOSITES[name]
    encoding = make("Composite", n_dims, generator, **keys)
    assert isinstance(cpu_encodings.describe_encoding(encoding), cpu_encodings.EncodingShape)
    x = torch.rand(n_points, n_dims, generator=generator)
    results = []
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            results.append(values_and_gradients(encoding, x, list(encoding.parameters())))
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) < 1e-5


@pytest.mark.parametrize("n_points", [0, 1, 257, 1003])
@pytest.mark.parametrize("name", [*COMPOSITES, *FORMULAS])
def test_a_field_is_its_encoding_and_its_network(name: str, n_points: int, generator: torch.Generator) -> None:
    n_dims, keys = COMPOSITES.get(name, (3, {}))
    encoding = make("Composite" if name in COMPOSITES else name, n_dims, generator, **keys)
    network = MLP(encoding.n_output_dims, 3, n_neurons=24, n_hidden_layers=2, activation="SiLU", generator=generator)
    assert isinstance(fused.shapes(encoding, network)[0], cpu_encodings.EncodingShape)
    x = torch.rand(n_points, n_dims, generator=generator)
    parameters = [*encoding.parameters(), *network.parameters()]
    results = []
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            results.append(values_and_gradients(lambda x: fused.apply(encoding, network, x), x, parameters))
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) < 2e-5


def test_second_derivatives_of_a_field_are_the_references(generator: torch.Generator) -> None:
    n_dims, keys = COMPOSITES["a grid and a direction"]
    encoding = make("Composite", n_dims, generator, **keys)
    network = MLP(encoding.n_output_dims, 1, n_neurons=16, n_hidden_layers=1, activation="SiLU", generator=generator)
    x = torch.rand(30, n_dims, generator=generator)
    results = []
    for backend in ("cpu", "reference"):
        at = x.clone().requires_grad_()
        with use_backend(backend):
            (slope,) = torch.autograd.grad(fused.apply(encoding, network, at).sum(), at, create_graph=True)
            loss = (slope.norm(dim=-1) - 1).square().mean()
            results.append(torch.autograd.grad(loss, [at, *encoding.parameters(), *network.parameters()]))
    for one, other in zip(*results, strict=True):
        assert relative_error(one, other) < 1e-4


def test_only_wanted_gradients_are_computed(generator: torch.Generator) -> None:
    n_dims, keys = COMPOSITES["a product of grids"]
    encoding = make("Composite", n_dims, generator, **keys)
    first, second, third = encoding.parameters()
    second.requires_grad_(False)
    x = torch.rand(50, n_dims, generator=generator)
    grads = []
    for backend in ("cpu", "reference"):
        with use_backend(backend):
            grads.append(torch.autograd.grad(encoding(x).sum(), [first, third]))
    for one, other in zip(*grads, strict=True):
        assert relative_error(one, other) < 1e-5


def test_training_steps_move_every_table(generator: torch.Generator) -> None:
    """Against autograd and the optimizer's plain Adam; frequencies that are no parameters stay."""
    n_dims, keys = COMPOSITES["two grids of overlapping coordinates and the rest"]
    nested = [*keys["nested"], {"otype": "RandomFourier", "n_dims_to_encode": 2, "dims_to_encode_begin": 0}]
    encoding = make("Composite", n_dims, generator, nested=nested)
    network = MLP(encoding.n_output_dims, 2, n_neurons=16, n_hidden_layers=2, generator=generator)
    shape, mlp_shape = fused.shapes(encoding, network)
    assert isinstance(shape, cpu_encodings.EncodingShape)
    tensors = [tensor.detach().clone() for tensor in cpu_encodings.tensors_of(encoding).values()]
    weights = [weight.detach().clone() for weight in cpu_ops.parameters_of(network)[0]]
    tables = [tensor for part, tensor in zip(shape.with_tensors, tensors, strict=True) if part.grid is not None]
    moments = [Moved(torch.zeros_like(one), torch.zeros_like(one)) for one in (*tables, *weights)]
    step = TrainingStep(weights, [], mlp_shape, encoding=shape, tensors=tensors, moved=moments)
    assert len(step.parameters) == 2 + 3
    parameters = [*encoding.parameters(), *network.parameters()]
    matrix, other = list(network.parameters()), list(encoding.parameters())
    adam = Adam(Parameters(matrix, other), learning_rate=1e-2, beta1=0.9, beta2=0.99, epsilon=1e-4, l2_reg=0.0)
    x = torch.rand(300, n_dims, generator=generator)
    target = torch.rand(300, 2, generator=generator)
    for t in range(1, 6):
        rate = 1e-2 * (1 - 0.99**t) ** 0.5 / (1 - 0.9**t)
        rule = Rule(Mover.ADAM, rate=rate, beta1=0.9, beta2=0.99, epsilon=1e-4)
        loss, _, _ = step.on_points(x, target, [rule] * len(moments))
        with use_backend("reference"):
            expected = (fused.apply(encoding, network, x) - target).square().mean()
        for parameter, grad in zip(parameters, torch.autograd.grad(expected, parameters), strict=True):
            parameter.grad = grad
        adam.step()
        assert loss == pytest.approx(float(expected.detach()), rel=1e-4)
    for one, other in zip(step.parameters, parameters, strict=True):
        assert relative_error(one, other.detach()) < 1e-3
    assert torch.equal(tensors[2], encoding.parts[3].frequencies)


@pytest.mark.parametrize("name", list(COMPOSITES))
def test_any_number_of_threads_gives_the_same_bits(
    name: str, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    n_dims, keys = COMPOSITES[name]
    encoding = make("Composite", n_dims, generator, **keys)
    network = MLP(encoding.n_output_dims, 2, n_neurons=16, n_hidden_layers=1, generator=generator)
    x = torch.rand(3001, n_dims, generator=generator)
    parameters = [*encoding.parameters(), *network.parameters()]
    results = []
    for n_threads in ("1", "2", "3"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        results.append(values_and_gradients(lambda x: fused.apply(encoding, network, x), x, parameters))
        results[-1] += values_and_gradients(encoding, x, list(encoding.parameters()))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("otype", FORMULAS)
def test_points_need_not_be_contiguous_nor_rows(otype: str, generator: torch.Generator) -> None:
    encoding = make(otype, 3, generator)
    x = torch.rand(3, 4, 60, generator=generator).permute(2, 1, 0)[::2]
    assert encoding(x).shape == (30, 4, encoding.n_output_dims)
    assert torch.equal(encoding(x), encoding(x.contiguous().view(-1, 3)).view(30, 4, -1))


def test_what_the_kernels_do_not_have_is_refused_with_the_reason(generator: torch.Generator) -> None:
    with use_backend("cpu"):
        with pytest.raises(BackendError, match=r"cannot run frequency: it is in float32 only, not torch\.float64"):
            make("Frequency", 2, generator)(torch.rand(3, 2, dtype=torch.float64))
        with pytest.raises(BackendError, match=r"cannot run one_blob: it has at most 65536 features, not 81920"):
            make("OneBlob", 20, generator, n_bins=4096)(torch.rand(3, 20))
        trained = make("RandomFourier", 2, generator)
        trained.frequencies.requires_grad_()
        with pytest.raises(BackendError, match=r"random_fourier: its frequencies are trained"):
            trained(torch.rand(3, 2))
    with pytest.raises(BackendError, match=r"cannot run frequency: torch\.func and forward-mode"), use_backend("cpu"):
        torch.func.vmap(lambda x: make("Frequency", 2, generator)(x))(torch.rand(4, 3, 2))
    assert "no native encoding TensorCP" in str(cpu_encodings.describe_encoding(make("TensorCP", 2, generator)))
    many = make("Composite", 1, generator, nested=[{"otype": "Identity", "n_dims_to_encode": 1,
                                                    "dims_to_encode_begin": 0}] * 64)  # fmt: skip
    assert isinstance(cpu_encodings.describe_encoding(many), cpu_encodings.EncodingShape)


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's forward mode uses it itself
@pytest.mark.parametrize("otype", FORMULAS)
def test_batched_and_forward_mode_derivatives_are_the_references(otype: str, generator: torch.Generator) -> None:
    encoding = make(otype, 3, generator)
    x = torch.rand(3, generator=generator, requires_grad=True)
    tangent = torch.randn(3, generator=generator)
    one_by_one = torch.autograd.functional.jacobian(encoding, x)
    batched = torch.autograd.functional.jacobian(encoding, x, vectorize=True)
    assert relative_error(batched, one_by_one) < 1e-5
    with torch.autograd.forward_ad.dual_level():
        dual = encoding(torch.autograd.forward_ad.make_dual(x.detach(), tangent))
        pushed = torch.autograd.forward_ad.unpack_dual(dual).tangent
    assert relative_error(pushed, one_by_one @ tangent) < 1e-5


def test_a_subclass_may_change_what_its_encoding_is(generator: torch.Generator) -> None:
    frequency_class = type(make("Frequency", 2, generator))

    class Twice(frequency_class):  # type: ignore[valid-type,misc]
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    network = MLP(12, 1, n_neurons=8, n_hidden_layers=1, generator=generator)
    encoding = Twice(2, n_frequencies=3)
    assert fused.shapes(encoding, network)[0] is None
    x = torch.rand(9, 2, generator=generator)
    torch.testing.assert_close(fused.apply(encoding, network, x), network(encoding(x)))


def test_bad_calls_are_errors_before_the_kernel(generator: torch.Generator) -> None:
    run = choose("frequency", torch.device("cpu"), dtype=torch.float32)
    with pytest.raises(TypeError, match=r"x: expected float32 on the CPU, got torch\.float64"):
        run(torch.rand(3, 2, dtype=torch.float64), 4)
    fourier = make("RandomFourier", 2, generator)
    with pytest.raises(ValueError, match=r"frequencies: expected shape \(19, 3\), got \(19, 2\)"):
        choose("random_fourier", torch.device("cpu"), dtype=torch.float32)(torch.rand(4, 3), fourier.frequencies)
    n_dims, keys = COMPOSITES["a grid and a direction"]
    encoding = make("Composite", n_dims, generator, **keys)
    shape = cpu_encodings.describe_encoding(encoding)
    (table,) = cpu_encodings.tensors_of(encoding).values()
    mlp_shape = cpu_ops.MlpShape((encoding.n_output_dims, 4, 1))
    weights = [torch.zeros(4, encoding.n_output_dims), torch.zeros(1, 4)]
    with pytest.raises(ValueError, match=r"table: expected shape"):
        TrainingStep(weights, [], mlp_shape, encoding=shape, tensors=[table[:-1]], moved=[])
    with pytest.raises(ValueError, match=r"tensors: expected 1, got 0"):
        TrainingStep(weights, [], mlp_shape, encoding=shape, tensors=[], moved=[])
