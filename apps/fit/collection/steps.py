"""Networks of one shape side by side: how they begin, and how they move.

The plain version (`PlainSteps`) defines what a step is: Adam on the mean loss of each network's own points. The native
one makes the same steps in one call (`fieldforge.kernels.cpu_stacked`), and no network of it knows of its neighbours,
so that any cut of a collection into pieces gives the same bits. On a GPU they are the plain ones, through the grouped
kernels.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fieldforge.apps.fit.collection.encoded import Adam, EncodedSteps
from fieldforge.apps.fit.losses.base import Loss
from fieldforge.apps.fit.losses.robust import Huber
from fieldforge.backends import choose, provide
from fieldforge.encodings.base import Encoding
from fieldforge.fields.kinds.base import Field
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import cpu_door, cpu_ops, cpu_stacked
from fieldforge.kernels.cpu_training import LOSSES
from fieldforge.kernels.triton import door as triton_door
from fieldforge.kernels.triton import mlp as triton_mlp
from fieldforge.registry import ConfigError, build


class Steps(Protocol):
    """Training steps of a stack; `parameters` are weights, then biases, (n_networks, ...) each."""

    parameters: list[Tensor]

    def step(self, features: Tensor, target: Tensor, learning_rate: float) -> None:
        """One step on (n_networks, n_points, n_features) and (n_networks, n_points, n_outputs)."""

    def predict(self, features: Tensor) -> Tensor:
        """(n_networks, n_points, n_features) -> (n_networks, n_points, n_outputs)."""


def stackable(field: Field) -> MLP:
    """The network of a field whose kind can be fitted side by side.

    Raises:
        ConfigError: the network is no MLP with inputs of its own only, or the encoding has numbers that do not learn.
    """
    network = field.network
    if type(network) is not MLP or network.input_injection != "none" or network.precision != "float32":
        raise ConfigError(
            "network: the fields of a collection are plain MLPs, in float32 and without input_injection, "
            f"got {getattr(network, 'otype', type(network).__name__)}"
        )
    if network.modulation is not None or network.reparameterisation is not None:
        raise ConfigError(
            "network: the fields of a collection are plain MLPs, without modulation or reparameterisation"
        )
    if network.activation.is_complex or any(True for _ in network.activation.parameters()):
        raise ConfigError(f"network.activation: a collection needs real values and no parameters, "
                          f"got {network.activation.otype}")  # fmt: skip
    fixed = field.encoding.state_dict().keys() - dict(field.encoding.named_parameters()).keys()
    if fixed:
        raise ConfigError(f"encoding: {field.encoding.otype} has numbers of its own that do not learn "
                          f"({', '.join(sorted(fixed))}); a collection needs one without, such as Frequency, or one "
                          "that learns all of them, such as TriPlane")  # fmt: skip
    return network


def seed_of(seed: int, name: str, init: int, attempt: int = 0) -> int:
    """The seed of a field's first numbers: a hash of its name, so that neither order nor neighbours matter.

    Example:
        >>> seed_of(0, "00017", 2) == seed_of(0, "00017", 2), seed_of(0, "00017", 2) == seed_of(0, "00018", 2)
        (True, False)
    """
    text = f"{seed}\n{init}\n{attempt}\n{name}".encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:6], "big")


def initial_row(network: MLP, seed: int, encoding: Encoding | None = None) -> Tensor:
    """(P,) the numbers that a field of this network, and of an encoding that learns, begins with under a seed, as they
    lie in a collection."""
    with torch.device("cpu"):  # so that a seed means the same everywhere
        generator = torch.Generator().manual_seed(seed)
        parts = []
        if encoding is not None and learns(encoding):
            again: Encoding = build(
                "encoding", encoding.config(), n_input_dims=encoding.n_input_dims, generator=generator
            )
            parts += [parameter.detach().flatten() for parameter in again.parameters()]
        for index, (n_in, n_out) in enumerate(itertools.pairwise(_widths(network))):
            weight = torch.empty(n_out, n_in)
            bias = torch.empty(n_out) if network.has_bias else None
            draw = network.activation.init_hidden if index else network.activation.init_first
            draw(weight, bias, generator)
            parts += [weight.reshape(-1)] if bias is None else [weight.reshape(-1), bias]
        return torch.cat(parts)


def learns(encoding: Encoding) -> bool:
    """Whether each field has an encoding of its own."""
    return any(True for _ in encoding.parameters())


def stacked(rows: Tensor, network: MLP, encoding: Encoding | None = None) -> list[Tensor]:
    """(n, P) rows to the encoding's parameters (n, ...), weights (n, n_out, n_in), then biases (n, n_out), of all
    layers; copies."""
    own, weights, biases, at = [], [], [], 0
    for parameter in () if encoding is None else encoding.parameters():
        own.append(rows[:, at : at + parameter.numel()].reshape(-1, *parameter.shape).clone())
        at += parameter.numel()
    for n_in, n_out in itertools.pairwise(_widths(network)):
        weights.append(rows[:, at : at + n_out * n_in].reshape(-1, n_out, n_in).clone())
        at += n_out * n_in
        if network.has_bias:
            biases.append(rows[:, at : at + n_out].clone())
            at += n_out
    return [*own, *weights, *biases]


def flat(parameters: Sequence[Tensor], network: MLP) -> Tensor:
    """The inverse: (n, P)."""
    n_layers, n = len(network.layers), len(parameters[0])
    n_own = len(parameters) - n_layers * (2 if network.has_bias else 1)
    parts = [parameter.reshape(n, -1) for parameter in parameters[:n_own]]
    for layer in range(n_layers):
        parts.append(parameters[n_own + layer].reshape(n, -1))
        if network.has_bias:
            parts.append(parameters[n_own + n_layers + layer])
    return torch.cat(parts, 1)


def make_steps(
    rows: Tensor, network: MLP, loss: Loss, adam: Mapping[str, Any], encoding: Encoding | None = None
) -> Steps:
    """Steps that begin at rows (n, P); of an encoding that learns their features are points of the unit cube."""
    parameters = stacked(rows, network, encoding)
    if encoding is not None and learns(encoding):
        run = choose("stacked_outputs", rows.device, network=network)
        return EncodedSteps(parameters, encoding, lambda x, rest: run(x, rest, network), loss, adam)
    make = choose("stacked_steps", rows.device, network=network, loss=loss)
    made: Steps = make(parameters, network, loss, adam)
    return made


def adam_of(optimizer: Mapping[str, Any]) -> dict[str, float]:
    """learning_rate, beta1, beta2, epsilon and l2_reg of a plain Adam.

    Raises:
        ConfigError: another optimizer, or a key that the steps of stacks do not know.
    """
    known = {"learning_rate": 1e-3, "beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "l2_reg": 0.0}
    if str(optimizer["otype"]).lower() != "adam":
        raise ConfigError(f"optimizer.otype: a collection is fitted with Adam, got {optimizer['otype']}")
    without = {"otype", "skip_zero_grad_non_matrix_params"}
    for key in optimizer.keys() - known.keys() - without:
        raise ConfigError(f"optimizer.{key}: a collection knows {', '.join(known)} of Adam")
    return {key: float(optimizer.get(key, default)) for key, default in known.items()}


@provide("stacked_outputs", "reference")
def _plain_outputs(features: Tensor, parameters: Sequence[Tensor], network: MLP) -> Tensor:
    """Features (n, n_points, n_features) through the networks of weights, then biases, (n, ...) each."""
    n_layers, h = len(network.layers), features
    for layer in range(n_layers):
        z = h @ parameters[layer].mT
        if network.has_bias:
            z = z + parameters[n_layers + layer][:, None]
        h = network.output_activation(z) if layer == n_layers - 1 else network.activation(z, is_first=layer == 0)
    return h


def _native_outputs(features: Tensor, parameters: Sequence[Tensor], network: MLP) -> Tensor:
    shape = cpu_ops.describe_layers(network, _widths(network))
    assert not isinstance(shape, str), shape
    n, n_points, _ = features.shape
    weights, biases = parameters[: len(network.layers)], parameters[len(network.layers) :]
    out = cpu_stacked.stacked_mlp(features.flatten(0, 1), _offsets(n, n_points), weights, biases, shape,
                                  reference=_no_second_derivatives)  # fmt: skip
    return out.unflatten(0, (n, n_points))


def _outputs_on_cuda(features: Tensor, parameters: Sequence[Tensor], network: MLP) -> Tensor:
    """The same by the grouped kernels; a network's points are as many as every other's."""
    shape = triton_mlp.describe(network, _widths(network))
    assert not isinstance(shape, str), shape
    n, n_points, _ = features.shape
    weights, biases = parameters[: len(network.layers)], parameters[len(network.layers) :]
    offsets = torch.arange(n + 1, device=features.device) * n_points
    out = triton_mlp.mlp(features.flatten(0, 1), weights, biases, shape, offsets=offsets,
                         reference=_no_second_derivatives)  # fmt: skip
    return out.unflatten(0, (n, n_points))


class PlainSteps:
    """Adam on the gradients that PyTorch finds.

    Args:
        parameters, network, loss, adam: as for `make_steps`.
        outputs: what the networks answer, (features, parameters, network) -> (n, n_points, n_outputs).
    """

    def __init__(
        self, parameters: list[Tensor], network: MLP, loss: Loss, adam: Mapping[str, float],
        outputs: Callable[[Tensor, Sequence[Tensor], MLP], Tensor] = _plain_outputs,
    ) -> None:  # fmt: skip
        self._network, self._loss, self._outputs = network, loss, outputs
        self._shapes = [parameter.shape for parameter in parameters]
        self._row = torch.cat([parameter.flatten(1) for parameter in parameters], 1)  # so that Adam moves one tensor
        self.parameters = self._parts(self._row)
        self._adam = Adam([self._row], adam)

    def predict(self, features: Tensor) -> Tensor:
        with torch.no_grad():
            return self._outputs(features, self.parameters, self._network)

    def step(self, features: Tensor, target: Tensor, learning_rate: float) -> None:
        """A network whose own loss is not finite stays as it is."""
        row = self._row.detach().requires_grad_()
        each = self._loss.per_channel(self._outputs(features, self._parts(row), self._network), target).mean((1, 2))
        self._adam.step(torch.autograd.grad(each.sum(), [row]), each.detach().isfinite(), learning_rate)

    def _parts(self, row: Tensor) -> list[Tensor]:
        """(n, P) as what it is made of; views."""
        parts = row.split([shape[1:].numel() for shape in self._shapes], 1)
        return [part.unflatten(1, shape[1:]) for part, shape in zip(parts, self._shapes, strict=True)]


class NativeSteps:
    """One native call a step."""

    def __init__(self, parameters: list[Tensor], network: MLP, loss: Loss, adam: Mapping[str, float]) -> None:
        shape = cpu_ops.describe_layers(network, _widths(network))
        assert not isinstance(shape, str), shape
        n_layers = len(network.layers)
        self._network = network
        self._native = cpu_stacked.StackedAdamStep(
            parameters[:n_layers], parameters[n_layers:], shape, loss=loss.otype, of_each=True,
            huber_delta=loss.delta if isinstance(loss, Huber) else 1.0, betas=(adam["beta1"], adam["beta2"]),
            epsilon=adam["epsilon"], l2=adam["l2_reg"],
        )  # fmt: skip
        self.parameters = self._native.parameters

    def predict(self, features: Tensor) -> Tensor:
        return _native_outputs(features, self.parameters, self._network)

    def step(self, features: Tensor, target: Tensor, learning_rate: float) -> None:
        n, n_points, _ = features.shape
        offsets = _offsets(n, n_points)
        self._native.on_points(features.flatten(0, 1), offsets, target.flatten(0, 1), learning_rate)


def _no_second_derivatives(*_: Any) -> Tensor:
    raise NotImplementedError("nobody asks for them here")


def _offsets(n: int, n_points: int) -> Tensor:
    return torch.arange(n + 1, dtype=torch.int64) * n_points


def _widths(network: MLP) -> tuple[int, ...]:
    return (network.n_input_dims, *[network.n_neurons] * network.n_hidden_layers, network.n_output_dims)


def _refuses(*, network: MLP, loss: Loss) -> str | None:
    found = _refuses_network(network=network)
    if found is not None:
        return found
    return None if loss.otype in LOSSES else f"the loss {loss.otype} is not among {', '.join(LOSSES)}"


def _refuses_network(*, network: MLP) -> str | None:
    found = cpu_ops.describe_layers(network, _widths(network))
    return found if isinstance(found, str) else None


def _refuses_on_cuda(*, network: MLP, **_: Any) -> str | None:
    found = triton_mlp.describe(network, _widths(network))
    return found if isinstance(found, str) else None


_on_cuda: dict[str, Any] = {
    "missing": triton_door.missing, "refuses": _refuses_on_cuda, "note": triton_door.description
}  # fmt: skip


@provide("stacked_steps", "cuda", **_on_cuda)
def _steps_on_cuda(parameters: list[Tensor], network: MLP, loss: Loss, adam: Mapping[str, float]) -> PlainSteps:
    return PlainSteps(parameters, network, loss, adam, _outputs_on_cuda)


provide("stacked_outputs", "cuda", **_on_cuda)(_outputs_on_cuda)
provide("stacked_outputs", "cpu", missing=cpu_door.missing, refuses=_refuses_network)(_native_outputs)
provide("stacked_steps", "reference")(PlainSteps)
provide("stacked_steps", "cpu", missing=cpu_door.missing, refuses=_refuses)(NativeSteps)


def loss_of(config: Mapping[str, Any]) -> Loss:
    """The loss of a run configuration.

    Raises:
        ConfigError: it is not one of single predictions.
    """
    loss = build("loss", config, path="loss")
    if not isinstance(loss, Loss):
        raise ConfigError(f"loss: a collection needs one of single predictions, such as L2, got {config['otype']}")
    return loss
