"""Networks in bfloat16: the native one is the rounded reference, and both are near the network in float32."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from fieldforge.backends import use_backend
from fieldforge.encodings.grid import Grid
from fieldforge.encodings.identity import Identity
from fieldforge.fields import fused
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.networks.rounding import rounded_linear
from fieldforge.kernels import cpu_door, cpu_ops
from fieldforge.kernels.cpu_training import Moved, Mover, Rule, TrainingStep

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")


def needs_bf16() -> None:
    if not cpu_door.native().has_bf16():
        pytest.skip("no device: needs AVX512-BF16")


def make(n_in: int, n_out: int, generator: torch.Generator, **keys: object) -> MLP:
    return MLP(n_in, n_out, generator=generator, **({"precision": "bfloat16", "has_bias": True} | keys))  # type: ignore[arg-type]


def relative_error(got: Tensor, expected: Tensor) -> float:
    got, expected = got.detach().double(), expected.detach().double()
    return float((got - expected).norm() / expected.norm().clamp_min(1e-30))


def results(
    network: MLP, x: Tensor, grad: Tensor, backend: str, encoding: torch.nn.Module | None = None
) -> list[Tensor]:
    """Value, and gradients of x and of every parameter."""
    encoding = encoding or Identity(network.n_input_dims)
    with use_backend(backend):
        x = x.detach().to(network.layers[0].weight.dtype).requires_grad_()
        out = fused.apply(encoding, network, x)
        wanted = [x, *encoding.parameters(), *network.parameters()]
        return [out.detach(), *torch.autograd.grad(out, wanted, grad.to(out.dtype))]


def test_rounding_is_to_the_nearest_bfloat16_both_ways() -> None:
    h = torch.tensor([[1.0 + 2**-9, 3.0]], requires_grad=True)
    weight = torch.tensor([[1.0, 1.0 + 2**-7 + 2**-8]], requires_grad=True)  # ties go to the even one
    out = rounded_linear(h, weight, torch.tensor([2.0**-20]))
    assert out.item() == 1.0 + 3.0 * (1 + 2**-6) + 2**-20
    out.backward(torch.tensor([[1.0 + 2**-9]]))
    assert h.grad is not None
    assert weight.grad is not None
    assert h.grad.tolist() == [[1.0, 1 + 2**-6]]
    assert weight.grad.tolist() == [[1.0, 3.0]]


@pytest.mark.parametrize("n_points", [0, 1, 15, 17, 300])
@pytest.mark.parametrize(
    ("n_in", "width", "n_hidden", "n_out"),
    [(1, 1, 1, 1), (63, 32, 2, 4), (2, 257, 1, 17), (7, 5, 0, 3), (32, 64, 2, 3)],
)
def test_the_native_network_is_the_rounded_reference(
    n_in: int, width: int, n_hidden: int, n_out: int, n_points: int, generator: torch.Generator
) -> None:
    """A sum that is rounded the other way in float32 may tip a later number over to the next bfloat16, 0.4 % away."""
    needs_bf16()
    network = make(n_in, n_out, generator, n_neurons=width, n_hidden_layers=n_hidden)
    x, grad = torch.rand(n_points, n_in, generator=generator), torch.randn(n_points, n_out, generator=generator)
    native, reference = (results(network, x, grad, backend) for backend in ("auto", "reference"))
    for one, other in zip(native, reference, strict=True):
        assert one.shape == other.shape
        assert relative_error(one, other) <= (2e-3 if n_hidden else 2e-6)


@pytest.mark.parametrize("activation", ["ReLU", "Tanh", "SiLU", {"otype": "Sine", "omega": 3.0}, "None"])
def test_the_network_is_near_the_one_in_float32(activation: object, generator: torch.Generator) -> None:
    needs_bf16()
    network = make(32, 3, generator, n_neurons=64, n_hidden_layers=2, activation=activation)
    exact = MLP(32, 3, **{k: v for k, v in network.config().items() if k not in ("otype", "precision")}).double()
    exact.load_state_dict(network.state_dict())
    x, grad = torch.rand(500, 32, generator=generator), torch.randn(500, 3, generator=generator)
    native, far = results(network, x, grad, "auto"), results(exact, x, grad, "reference")
    assert 1e-5 < relative_error(native[0], far[0]) < 1e-2
    for one, other in zip(native[1:], far[1:], strict=True):
        assert relative_error(one, other) < 0.1  # ReLUs near 0 switch, and random gradients cancel in the sums


def test_behind_a_grid(generator: torch.Generator) -> None:
    needs_bf16()
    encoding = Grid(2, n_levels=4, log2_hashmap_size=9, base_resolution=4)
    with torch.no_grad():
        encoding.table.uniform_(-1, 1, generator=generator)
    network = make(encoding.n_output_dims, 3, generator, n_neurons=16, n_hidden_layers=2)
    x, grad = torch.rand(300, 2, generator=generator), torch.randn(300, 3, generator=generator)
    native, reference = (results(network, x, grad, backend, encoding) for backend in ("auto", "reference"))
    for one, other in zip(native, reference, strict=True):
        assert relative_error(one, other) < 2e-3


def test_any_number_of_threads_gives_the_same_bits(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    needs_bf16()
    network = make(20, 3, generator, n_neurons=33, n_hidden_layers=2)
    x, grad = torch.rand(3000, 20, generator=generator), torch.randn(3000, 3, generator=generator)
    found = []
    for n_threads in ("1", "2", "3"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        found.append(results(network, x, grad, "auto"))
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_nan_in_nan_out(generator: torch.Generator) -> None:
    needs_bf16()
    network = make(5, 1, generator, n_neurons=8, n_hidden_layers=2)
    x = torch.rand(40, 5, generator=generator)
    x[7, 2] = math.nan
    with torch.no_grad():
        assert fused.apply(Identity(5), network, x).isnan().squeeze(1).nonzero().tolist() == [[7]]


@pytest.mark.parametrize("behind", ["nothing", "a grid"])
def test_second_derivatives_are_those_of_the_rounded_reference(behind: str, generator: torch.Generator) -> None:
    needs_bf16()
    encoding = Identity(3) if behind == "nothing" else Grid(3, n_levels=3, log2_hashmap_size=8, base_resolution=4)
    network = make(encoding.n_output_dims, 1, generator, n_neurons=16, n_hidden_layers=2, activation="Softplus")
    parameters = [*encoding.parameters(), *network.parameters()]
    points = torch.rand(50, 3, generator=generator)
    found = []
    for backend in ("auto", "reference"):
        x = points.clone().requires_grad_()
        with use_backend(backend):
            (slope,) = torch.autograd.grad(fused.apply(encoding, network, x).sum(), x, create_graph=True)
            eikonal = ((slope.norm(dim=-1) - 1) ** 2).mean()
            found.append(torch.autograd.grad(eikonal, parameters, allow_unused=True, materialize_grads=True))
    for one, other in zip(*found, strict=True):
        assert relative_error(one, other) < 1e-4


def test_training_keeps_weights_of_float32(generator: torch.Generator) -> None:
    """Steps far smaller than a bfloat16 can tell apart still add up."""
    needs_bf16()
    network = make(4, 1, generator, n_neurons=16, n_hidden_layers=1)
    shape = cpu_ops.describe_mlp(network)
    assert not isinstance(shape, str)
    weights, biases = cpu_ops.parameters_of(network)
    weights, biases = [w.detach().clone() for w in weights], [b.detach().clone() for b in biases]
    moments = [Moved(torch.zeros_like(one), torch.zeros_like(one)) for one in (*weights, *biases)]
    step = TrainingStep(weights, biases, shape, moved=moments)
    x = torch.rand(500, 4, generator=generator)

    def loss_at(t: int) -> float:
        rate = 1e-4 * (1 - 0.99**t) ** 0.5 / (1 - 0.9**t)
        rule = Rule(Mover.ADAM, rate=rate, beta1=0.9, beta2=0.99, epsilon=1e-15)
        return step.on_points(x, x.sum(1, keepdim=True), [rule] * len(moments)).loss

    losses = [loss_at(t) for t in range(1, 401)]
    assert losses[-1] < 0.9 * losses[0]
    assert (step.parameters[0] != step.parameters[0].bfloat16().float()).any()


def test_a_processor_without_it_says_so(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lacking:
        def has_bf16(self) -> bool:
            return False

        def instruction_set(self) -> str:
            return "x86-64-v3"

    monkeypatch.setattr(cpu_ops, "native", Lacking)
    network = make(4, 1, generator, n_neurons=16, n_hidden_layers=1)
    assert cpu_ops.describe_mlp(network) == "x86-64-v3 here has no products of bfloat16 (AVX512-BF16)"
    assert fused.apply(Identity(4), network, torch.rand(3, 4)).shape == (3, 1)  # by the reference


def test_the_opt_in_is_a_key_of_the_configuration(generator: torch.Generator) -> None:
    assert make(2, 1, generator).config()["precision"] == "bfloat16"
    with pytest.raises(ValueError, match="precision: expected one of float32, bfloat16, got 'half'"):
        make(2, 1, generator, precision="half")
    with pytest.raises(ValueError, match="precision: 'bfloat16' needs an activation with real values, not WIRE"):
        make(2, 1, generator, activation="WIRE")
