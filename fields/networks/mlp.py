"""MLP: linear layers with an activation between them (tiny-cuda-nn's FullyFusedMLP and CutlassMLP, SIREN, WIRE).

    {"otype": "MLP", "n_neurons": 128, "n_hidden_layers": 5, "activation": "ReLU", "output_activation": "None",
     "has_bias": false, "input_injection": "none", "precision": "float32", "modulation": null,
     "reparameterisation": null}

The names CutlassMLP, FullyFusedMLP and MegakernelMLP ask for a speed and mean the same function. As in tiny-cuda-nn
there are no biases unless asked for (SIREN, FINER, WIRE and Gaussian networks want them), and n_hidden_layers hidden
layers are n_hidden_layers + 1 matrices; none at all is a single matrix.

tiny-cuda-nn keeps its matrices one after another in a flat vector, each row-major (n_out, n_in) like `layers[i].weight`
here, the input width padded to a multiple of 16 (8 for Cutlass) and the output likewise. Padded outputs are dropped;
what a padded input reads depends on the encoding: 0 behind a Grid, 1 behind Identity and Frequency, where its column
works as a bias of the first layer.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_bool, expect_choice, expect_generator, expect_int, expect_points
from fieldforge.fields.activations.base import Activation, expect_activation
from fieldforge.fields.modulation import Modulator
from fieldforge.fields.networks.base import Modulation, Network, empty_linear, expect_real_activation, expect_size
from fieldforge.fields.networks.rounding import rounded_linear
from fieldforge.fields.reparameterisation import Reparameterisation, ReparameterisedLinear
from fieldforge.registry import build, register


@register("network", "MLP")
@register("network", "CutlassMLP")
@register("network", "FullyFusedMLP")
@register("network", "MegakernelMLP")
class MLP(Network):
    """h_i = activation(W_i h_{i-1} + b_i), out = output_activation(W h + b).

    Weights and biases are drawn by `activation`: the first matrix from its first law, all others, the output's too,
    from its hidden law. A complex activation (WIRE) has int(n_neurons / √2) complex units, so that the number of real
    parameters stays about the same; the real part of the last layer is what the output activation sees.

    Args:
        n_input_dims: width of the features.
        n_output_dims: number of outputs.
        n_neurons: width of the hidden layers.
        n_hidden_layers: number of hidden layers, also 0.
        activation: name or table of the hidden activation.
        output_activation: name or table of the last one; its own initialisation is not used.
        has_bias: whether linear layers have biases.
        input_injection: hidden layers that read the features again, beside the previous layer, as [h, features]:
            "none"; "mid": one in the middle, layer n_hidden_layers // 2 + 1 counted from 0, which for eight layers is
            NeRF's; "all": every one but the first (mi-MLP; Zhu et al., CVPR 2024). Each has n_input_dims * n_neurons
            weights more; compare networks of equal size. Steps and passes are then made in PyTorch.
        precision: "float32"; or "bfloat16": what a linear layer multiplies, its input and its weights, is rounded to
            bfloat16 first, and so are the gradients that its backward pass multiplies. Sums, biases, activations and
            the weights themselves keep their dtype; derivatives are those of the network without rounding, taken at
            rounded numbers. For activations of real values.
        modulation: name or table of what scales and shifts hidden layers by place (`fieldforge.fields.modulation`), for
            real activations. A field hands the place on; whoever calls the network alone says
            ``modulate=network.modulation.at(x)``. Steps and passes are then made in PyTorch.
        reparameterisation: name or table of another set of numbers for the matrices between hidden layers
            (`fieldforge.fields.reparameterisation`), for real activations in float32; `materialise` turns them back.
        n_coordinates: of a place; what a field gives. Only a modulation reads it.
        generator: source of the initial weights; None is torch's global one.

    Attributes:
        layers: the linear layers, the output's last; with a complex activation all but the first are complex.
        width: number of units of a hidden layer.

    Raises:
        ValueError: a number is out of range, the network would have more than 2³⁰ parameters, or inputs are to be
            injected where there is no second hidden layer.

    Example:
        >>> mlp = MLP(2, 3, n_neurons=64, n_hidden_layers=2)
        >>> [tuple(layer.weight.shape) for layer in mlp.layers]
        [(64, 2), (64, 64), (3, 64)]
    """

    otype = "MLP"

    def __init__(
        self,
        n_input_dims: int,
        n_output_dims: int,
        *,
        n_neurons: int = 128,
        n_hidden_layers: int = 5,
        activation: str | Mapping[str, Any] | Activation = "ReLU",
        output_activation: str | Mapping[str, Any] | Activation = "None",
        has_bias: bool = False,
        input_injection: Literal["none", "mid", "all"] = "none",
        precision: Literal["float32", "bfloat16"] = "float32",
        modulation: str | Mapping[str, Any] | Modulator | None = None,
        reparameterisation: str | Mapping[str, Any] | Reparameterisation | None = None,
        n_coordinates: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.n_input_dims = expect_int("n_input_dims", n_input_dims, 1)
        self.n_output_dims = expect_int("n_output_dims", n_output_dims, 1)
        self.n_neurons = expect_int("n_neurons", n_neurons, 1)
        self.n_hidden_layers = expect_int("n_hidden_layers", n_hidden_layers, 0, 1024)
        self.activation = expect_activation("activation", activation)
        self.output_activation = expect_real_activation("output_activation", output_activation)
        self.has_bias = expect_bool("has_bias", has_bias)
        self.input_injection = expect_choice("input_injection", input_injection, ("none", "mid", "all"))
        if self.input_injection != "none" and n_hidden_layers < 2:
            raise ValueError(
                f"input_injection: {self.input_injection!r} needs n_hidden_layers of at least 2, got {n_hidden_layers}"
            )
        self.precision = expect_choice("precision", precision, ("float32", "bfloat16"))
        if self.precision != "float32" and self.activation.is_complex:
            raise ValueError(f"precision: {self.precision!r} needs an activation with real values, "
                             f"not {self.activation.otype}")  # fmt: skip
        hidden = self.activation.smoothness if n_hidden_layers else math.inf
        self.smoothness = min(hidden, self.output_activation.smoothness)

        is_complex = self.activation.is_complex
        self.width = max(1, int(n_neurons / math.sqrt(2))) if is_complex else n_neurons
        shapes = self._shapes()
        expect_size(sum(n_out * (n_in + 1) for n_in, n_out in shapes))
        self.reparameterisation = self._rule(reparameterisation)
        expect_generator(generator)
        layers: list[nn.Module] = []
        for index, (n_in, n_out) in enumerate(shapes):
            if self.reparameterisation is not None and 0 < index < n_hidden_layers:
                layers.append(
                    self.reparameterisation.layer(
                        n_in, n_out, has_bias=has_bias, activation=self.activation, generator=generator
                    )
                )
                continue
            layer = empty_linear(n_in, n_out, has_bias=has_bias, is_complex=is_complex and index > 0)
            draw = self.activation.init_hidden if index else self.activation.init_first
            draw(layer.weight, layer.bias, generator)
            layers.append(layer)
        self.layers = nn.ModuleList(layers)
        self.modulation = self._modulator(modulation, n_coordinates)
        if self.modulation is not None:
            self.smoothness = min(self.smoothness, self.modulation.smoothness)

    def forward(self, features: Tensor, *, modulate: Modulation | None = None) -> Tensor:
        """(*batch, n_input_dims) -> (*batch, n_output_dims).

        Args:
            features: what the network reads.
            modulate: called with i = 0, 1, ... and z = W_i h + b_i, (*batch, width), of each hidden layer; its result
                goes through the activation instead of z (CAM; Lee et al., ICLR 2024). A sine's omega comes after it;
                with a complex activation z is complex from i = 1 on. A network with a modulation of its own needs it,
                as that reads places, which features are not.
        """
        expect_points(features, self.n_input_dims, name="features", owner=self)
        if modulate is None and self.modulation is not None:
            raise ValueError(f"modulate: this network has a {self.modulation.otype}, which reads the coordinates x "
                             "themselves; give modulate=network.modulation.at(x)")  # fmt: skip
        *hidden, last = self.layers
        h = features
        for index, layer in enumerate(hidden):
            z = self._linear(layer, torch.cat((h, features), -1) if self._is_injected(index) else h)
            if modulate is not None:
                z = modulate(index, z)
            h = self.activation(z, is_first=index == 0)
        out = self._linear(last, h)
        return self.output_activation(out.real if out.is_complex() else out)

    def materialise(self) -> None:
        """Make a reparameterised network a plain one of the same function, in place; nothing to one that is plain."""
        for index, layer in enumerate(self.layers):
            if isinstance(layer, ReparameterisedLinear):
                self.layers[index] = layer.materialise()
        self.reparameterisation = None

    def _rule(self, config: str | Mapping[str, Any] | Reparameterisation | None) -> Reparameterisation | None:
        if config is None:
            return None
        if self.activation.is_complex or self.precision != "float32":
            raise ValueError("reparameterisation: is of real activations in float32")
        if self.n_hidden_layers < 2:
            raise ValueError(f"reparameterisation: is of the matrices between hidden layers; n_hidden_layers is "
                             f"{self.n_hidden_layers}, and two have the first")  # fmt: skip
        if isinstance(config, Reparameterisation):
            return config
        rule: Reparameterisation = build("reparameterisation", config, path="reparameterisation")
        return rule

    def _modulator(
        self, config: str | Mapping[str, Any] | Modulator | None, n_coordinates: int | None
    ) -> Modulator | None:
        if config is None or isinstance(config, Modulator):
            return config
        if self.activation.is_complex:
            raise ValueError(f"modulation: is of real activations, not of {self.activation.otype}")
        if n_coordinates is None:
            raise ValueError("modulation: reads the coordinates of a field, and this network is told of none")
        widths = [self.width] * self.n_hidden_layers
        made: Modulator = build(
            "modulation", config, path="modulation", n_coordinates=n_coordinates, hidden_widths=widths
        )
        return made

    def _linear(self, layer: nn.Module, h: Tensor) -> Tensor:
        if self.precision != "float32":
            assert isinstance(layer, nn.Linear)  # complex layers were refused
            return rounded_linear(h, layer.weight, layer.bias)
        out: Tensor = layer(h)
        return out

    def _is_injected(self, index: int) -> bool:
        """Whether hidden layer `index` reads the features again."""
        if self.input_injection == "mid":
            return index == min(self.n_hidden_layers // 2 + 1, self.n_hidden_layers - 1)
        return self.input_injection == "all" and index > 0

    def _shapes(self) -> list[tuple[int, int]]:
        """(n_in, n_out) of every linear layer."""
        if self.n_hidden_layers == 0:
            return [(self.n_input_dims, self.n_output_dims)]
        later = [
            (self.width + self._is_injected(index) * self.n_input_dims, self.width)
            for index in range(1, self.n_hidden_layers)
        ]
        return [(self.n_input_dims, self.width), *later, (self.width, self.n_output_dims)]
