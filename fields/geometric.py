"""Geometric initialisation: a network that is, before it has learnt anything, the distance to a sphere.

Whoever fits points without a sign starts there: inside and outside are then known, and training only moves the surface
(Atzmon and Lipman 2020, SAL; Gropp et al. 2020, IGR).

Hidden layers of n ReLU or Softplus units: weights N(0, 2/n), biases 0, so that each keeps the length of its input. The
papers draw the last weights from N(√(π/n), 1e-5²), which is |c| - r on average over all draws, with c the coordinates;
a single draw strays from it by about 1/√n, 0.1 of the cube's side and more. So the last layer is solved for instead:
least squares of |c| - r over 4096 points, with those weights where the points do not care.

Sines do not keep lengths. A quarter of the units of each layer are made a network of their own, whose first weights are
a tenth as large; the last layer reads only these, until it learns better. (The split into slow and fast units is that
of DiGS, Ben-Shabat et al. 2022, who draw special weights and take a root of the output where we solve.)

Behind a Composite of Identity and other encodings only the coordinates are read at first: the columns of all others in
the first matrix, and wherever the network reads its input again, are 0 (Yariv et al. 2020; NeuS).
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from fieldforge.encodings.base import Encoding
from fieldforge.encodings.composite import Composite
from fieldforge.encodings.identity import Identity
from fieldforge.fields.activations.pointwise import ReLU, Softplus
from fieldforge.fields.activations.sine import Sine
from fieldforge.fields.networks.mlp import MLP

N_POINTS = 4096
DAMPING = 1e-6
"""Weight of staying near the law's weights, relative to the features' mean square."""
SLOW = 0.1


@torch.no_grad()
def draw_sphere(encoding: Encoding, network: nn.Module, radius: float, generator: torch.Generator | None) -> None:
    """Make network(encoding(x)) about |x - centre of the unit cube| - radius, in place; nothing on the meta device.

    Args:
        encoding: Identity, or a Composite that puts one Identity of all coordinates beside other encodings.
        network: an `MLP` of ReLU, Softplus or Sine, with biases and one output that no activation follows.
        radius: in sides of the cube.
        generator: of the weights; None is torch's own.

    Raises:
        ValueError: another encoding, network or activation.
    """
    columns, scale = _coordinates(encoding)
    mlp = _expect_mlp(network)
    layers = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]  # all of them: it is real
    first = layers[0]
    if first.weight.is_meta:
        return
    d, width = encoding.n_input_dims, encoding.n_output_dims
    is_other = torch.ones(width, dtype=torch.bool, device=first.weight.device)
    is_other[columns] = False
    middle = encoding(torch.full((d,), 0.5).to(first.weight)).to(first.weight).masked_fill(is_other, 0)
    is_sine = isinstance(mlp.activation, Sine)
    n_used = max(1, mlp.width // 4) if is_sine else mlp.width
    for index, layer in enumerate(layers[:-1]):
        injected = index > 0 and mlp._is_injected(index)
        if is_sine:
            _draw_slow(layer, n_used, is_first=index == 0)
        else:
            # an injected layer reads two vectors of the length that is to be kept: half the variance
            layer.weight.copy_(_normal(layer.weight, math.sqrt((1 if injected else 2) / mlp.width), generator))
            nn.init.zeros_(layer.bias)
        if index == 0 or injected:
            reads = layer.weight[:, -width:]
            reads[:, is_other] = 0
            if not is_sine:
                layer.bias.copy_(-reads @ middle)
    law = torch.zeros(mlp.width + 1, dtype=torch.float64)
    if not is_sine:
        law[:-1], law[-1] = math.sqrt(math.pi / mlp.width) / scale, -radius
    _solve_last(encoding, mlp, radius, law, n_used)


def _draw_slow(layer: nn.Linear, n_slow: int, *, is_first: bool) -> None:
    """The first n_slow units vary slowly, and read slow ones only; as they read fewer, their weights are larger."""
    slow = layer.weight[:n_slow]
    if is_first:
        slow *= SLOW
    else:
        slow[:, :n_slow] *= math.sqrt(layer.weight.shape[1] / n_slow)
        slow[:, n_slow:] = 0


def _solve_last(encoding: Encoding, mlp: MLP, radius: float, law: Tensor, n_used: int) -> None:
    """The last layer's weights and bias: least squares over the cube, near `law`, from the first `n_used` units."""
    *hidden, last = [layer for layer in mlp.layers if isinstance(layer, nn.Linear)]
    unit = torch.rand(N_POINTS, encoding.n_input_dims, generator=torch.Generator().manual_seed(0)).to(last.weight)
    h = features = encoding(unit).to(last.weight)
    for index, layer in enumerate(hidden):
        z = layer(torch.cat((h, features), -1) if mlp._is_injected(index) else h)
        h = mlp.activation(z, is_first=index == 0)
    solved = law.to(h.device)
    used = [*range(n_used), mlp.width]
    design = torch.cat((h, torch.ones_like(h[:, :1])), -1).double()[:, used]
    missing = (unit - 0.5).norm(dim=-1).double() - radius - design @ solved[used]
    square = design.T @ design
    square += DAMPING * square.diagonal().mean() * torch.eye(len(used)).to(square)
    solved[used] += torch.linalg.solve(square, design.T @ missing)
    last.weight.copy_(solved[None, :-1])
    last.bias.copy_(solved[-1:])


def _coordinates(encoding: Encoding) -> tuple[list[int], float]:
    """The columns of an encoding that are the coordinates, and the factor on them."""
    if isinstance(encoding, Identity):
        return list(range(encoding.n_output_dims)), encoding.scale
    if isinstance(encoding, Composite) and encoding.reduction == "Concatenation":
        start = 0
        for part in encoding.parts:
            if isinstance(part, Identity) and part.n_input_dims == encoding.n_input_dims and part.scale:
                return list(range(start, start + part.n_output_dims)), part.scale
            assert isinstance(part, Encoding)
            start += part.n_output_dims
    raise ValueError(
        f"sphere: needs the coordinates among the features, so encoding Identity, or a Composite with it, not "
        f"{encoding.otype}"
    )


def _expect_mlp(network: nn.Module) -> MLP:
    what = "sphere: needs an MLP of ReLU, Softplus or Sine with has_bias=true and no output activation"
    if not isinstance(network, MLP) or network.n_hidden_layers == 0:
        raise ValueError(f"{what}, not {type(network).__name__}")
    if not isinstance(network.activation, (ReLU, Softplus, Sine)) or not network.has_bias:
        raise ValueError(f"{what}, not {network.activation.otype} with has_bias={str(network.has_bias).lower()}")
    if network.modulation is not None or network.reparameterisation is not None:
        raise ValueError(f"{what}, without modulation or reparameterisation")
    if network.output_activation.otype not in ("None", "Linear") or network.n_output_dims != 1:
        raise ValueError(f"{what}, not {network.output_activation.otype} after {network.n_output_dims} outputs")
    return network


def _normal(like: Tensor, deviation: float, generator: torch.Generator | None) -> Tensor:
    """Drawn where the generator is, so that one seed gives the same network on every device."""
    device = like.device if generator is None else generator.device
    return torch.empty(like.shape, dtype=like.dtype, device=device).normal_(0, deviation, generator=generator).to(like)
