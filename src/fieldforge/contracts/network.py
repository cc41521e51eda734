"""What every network promises, as checks to run on one of yours.

    check_network(lambda: MyNetwork(3, 2, n_neurons=8))

`make` should give a small network; the checks rebuild it from its configuration for other seeds. Each check stands in
`NETWORK_CHECKS`; the first promise that is not kept raises an AssertionError that begins with the name of its check.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from fieldforge.contracts.activation import rebuild, require, run_checks

if TYPE_CHECKING:
    from fieldforge.fields.networks.base import Network

Make = Callable[[], "Network"]


def check_network(make: Make) -> None:
    """Run every check of `NETWORK_CHECKS` on networks made by `make`.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.

    Example:
        >>> from fieldforge.fields.networks.mlp import MLP
        >>> check_network(lambda: MLP(3, 2, n_neurons=8, n_hidden_layers=2))
    """
    run_checks(NETWORK_CHECKS, make)


def any_batch_shape(make: Make) -> None:
    """(*batch, n_in) -> (*batch, n_out) for no batch axis, an empty one, several, and non-contiguous features."""
    network = make()
    n_in, n_out = network.n_input_dims, network.n_output_dims
    for batch in ((), (0,), (5,), (2, 0), (2, 3)):
        out = network(points(network, *batch))
        require(
            out.shape == (*batch, n_out), f"batch shape {batch}: expected {(*batch, n_out)}, got {tuple(out.shape)}"
        )
    strided = points(network, 4).T.contiguous().T
    require(close(network(strided), network(strided.contiguous())), "non-contiguous features give other outputs")
    require(n_in >= 1 and n_out >= 1, f"n_input_dims and n_output_dims are {n_in} and {n_out}")


def points_do_not_mix(make: Make) -> None:
    """An output depends on its own point alone, and the features are not written to."""
    network = make()
    features = points(network, 6)
    before = features.clone()
    together = network(features)
    require(torch.equal(features, before), "forward wrote to its features")
    alone = torch.stack([network(one) for one in features])
    require(close(together, alone), "points evaluated together and one by one give different outputs")


def bad_input_is_named(make: Make) -> None:
    """Features of the wrong width or of whole numbers are refused with a message that begins with 'features'."""
    network = make()
    wrong = (torch.zeros(4, network.n_input_dims + 1), torch.zeros(4, network.n_input_dims, dtype=torch.long))
    for features, expected in zip(wrong, (ValueError, TypeError), strict=True):
        what = f"features of shape {tuple(features.shape)} and {features.dtype}"
        try:
            network(features)
        except expected as error:
            require(str(error).startswith("features"), f"{what} raise {error!r}, which does not begin with 'features'")
        except Exception as error:
            raise AssertionError(f"{what} should raise {expected.__name__}, raise {error!r}") from error
        else:
            raise AssertionError(f"{what} should raise {expected.__name__}, but pass")


def config_rebuilds(make: Make) -> None:
    """`config()` is JSON, and rebuilds a network of the same configuration and parameter shapes."""
    network = make()
    again = seeded(network, 0)
    require(again.config() == network.config(), f"{network.config()} came back as {again.config()}")
    require(shapes(again) == shapes(network), "the network rebuilt from config() has other parameters")


def one_seed_one_network(make: Make) -> None:
    """The generator decides every initial number, and torch's global one is left alone."""
    network = make()
    state = torch.get_rng_state()
    first, again, other = seeded(network, 0), seeded(network, 0), seeded(network, 1)
    require(torch.equal(state, torch.get_rng_state()), "the constructor took numbers from torch's global generator")
    for (name, tensor), same in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        require(torch.equal(tensor, same), f"{name} differs between two networks of one seed")
    features = points(network, 5)
    if any(True for _ in network.parameters()):
        require(not torch.equal(first(features), other(features)), "another seed gives the same network")


def state_is_complete(make: Make) -> None:
    """Loading one network's state into another of the same configuration makes them the same function."""
    network = make()
    other = seeded(network, 1)
    other.load_state_dict(network.state_dict())
    features = points(network, 5)
    require(torch.equal(other(features), network(features)), "something random is not in state_dict()")


def builds_on_meta(make: Make) -> None:
    """Under ``torch.device("meta")`` it is built without memory and without drawing numbers."""
    network = make()
    state = torch.get_rng_state()
    with torch.device("meta"):
        sketch = rebuild(network, n_input_dims=network.n_input_dims, n_output_dims=network.n_output_dims)
    require(torch.equal(state, torch.get_rng_state()), "random numbers were drawn for a network on the meta device")
    real = [name for name, tensor in sketch.state_dict().items() if not tensor.is_meta]
    require(not real, f"allocated outside the default device: {', '.join(real)}")
    require(shapes(sketch) == shapes(network), "parameters have other shapes on the meta device")


def double_is_the_same_function(make: Make) -> None:
    """After ``.double()`` float64 comes out, near the float32 result."""
    network = make().float()
    features = points(network, 5)
    single = network(features)
    require(single.dtype == torch.float32, f"float32 features give {single.dtype}")
    double = network.double()(features.double())
    require(double.dtype == torch.float64, f"float64 features give {double.dtype} after .double()")
    require(close(single.double(), double, 1e-3), "float32 and float64 outputs differ by more than 1e-3")


def identity_modulation_changes_nothing(make: Make) -> None:
    """The slot is offered layer by layer, (*batch, width) each, and what it returns is used."""
    network = make()
    features = points(network, 5)
    seen: list[tuple[int, tuple[int, ...]]] = []

    def watch(index: int, z: Tensor) -> Tensor:
        seen.append((index, tuple(z.shape)))
        return z

    require(torch.equal(network(features, modulate=watch), network(features)), "modulate=identity changes the output")
    require([index for index, _ in seen] == list(range(len(seen))), f"layers were offered in the order {seen}")
    require(all(shape[:-1] == (5,) for _, shape in seen), f"offered tensors are not (*batch, width): {seen}")
    if seen:
        changed = network(features, modulate=lambda _, z: 2 * z + 1)
        require(not torch.equal(changed, network(features)), "what modulate returns is not used")


def gradients_are_right(make: Make) -> None:
    """Every gradient is finite; the features' agree with differences, as often as smoothness says (at most 2)."""
    network = make().double()
    features = points(network, 3).double().requires_grad_()
    for parameter in network.parameters():
        parameter.grad = None
    network(features).square().sum().backward()
    for name, parameter in network.named_parameters():
        whole = parameter.grad is None or bool(torch.isfinite(parameter.grad).all())
        require(whole, f"the gradient of {name} is not finite")
    if network.smoothness >= 1:
        require(torch.autograd.gradcheck(network, features, raise_exception=False), "d output / d features is wrong")
    if network.smoothness >= 2:
        twice = torch.autograd.gradgradcheck(network, features, raise_exception=False)
        require(twice, "second derivatives in the features are wrong")


NETWORK_CHECKS: tuple[Callable[[Make], None], ...] = (
    any_batch_shape,
    points_do_not_mix,
    bad_input_is_named,
    config_rebuilds,
    one_seed_one_network,
    state_is_complete,
    builds_on_meta,
    double_is_the_same_function,
    identity_modulation_changes_nothing,
    gradients_are_right,
)


def seeded(network: Network, seed: int) -> Network:
    """A network of the same configuration, with the numbers of a seed."""
    generator = torch.Generator().manual_seed(seed)
    return rebuild(network, n_input_dims=network.n_input_dims, n_output_dims=network.n_output_dims, generator=generator)


def points(network: Network, *batch: int) -> Tensor:
    """(*batch, n_input_dims) features that are the same every time, within the network's coordinates if it has any."""
    low, high = network.coordinates or (-1.0, 1.0)
    generator = torch.Generator().manual_seed(7)
    return low + (high - low) * torch.rand(*batch, network.n_input_dims, generator=generator)


def shapes(network: Network) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of the state by its name."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def close(a: Tensor, b: Tensor, tolerance: float = 1e-5) -> bool:
    """Whether two results agree up to rounding, in units of their size."""
    return a.shape == b.shape and bool((a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1.0))
