"""What every network on weights promises, as checks to run on one of yours.

    check_weight_network(lambda: MyNetwork(layout, 3))

`make` should give a small network of a layout of a few hundred numbers; the checks rebuild it from its configuration
for other seeds and look at it in evaluation mode. Each check stands in `WEIGHT_NETWORK_CHECKS`; the first promise that
is not kept raises an AssertionError that begins with the name of its check.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fieldforge.contracts.activation import relative_error, require, run_checks
from fieldforge.registry import ConfigError, build

if TYPE_CHECKING:
    from fieldforge.fields.weightspace.networks.base import WeightNetwork

Make = Callable[[], "WeightNetwork[Any]"]

TOLERANCE = 1e-5
"""How far answers of float32 may move, in units of their size, when the weights are other numbers of the same field."""


def check_weight_network(make: Make) -> None:
    """Run every check of `WEIGHT_NETWORK_CHECKS` on networks made by `make`.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.

    Example:
        >>> from fieldforge.fields.weightspace.layout import Layout
        >>> from fieldforge.fields.weightspace.networks.flat_mlp import FlatMLP
        >>> check_weight_network(lambda: FlatMLP(Layout.from_json('[["a.weight", [3, 2]]]'), 2, widths=[8]))
    """
    run_checks(WEIGHT_NETWORK_CHECKS, make)


def any_batch(make: Make) -> None:
    """(batch, n_parameters) -> (batch, n_output_dims) for 0, 1 and 5 fields; each answer is its own field's."""
    network = make().eval()
    given = vectors(network, 5)
    for n in (0, 1, 5):
        out = network(given[:n])
        require(out.shape == (n, network.n_output_dims), f"{n} fields: expected {(n, network.n_output_dims)}, "
                                                         f"got {tuple(out.shape)}")  # fmt: skip
    alone = torch.cat([network(one[None]) for one in given])
    worst = relative_error(alone, network(given))
    require(worst < TOLERANCE, f"fields together and one by one differ by {worst:.1e} of the answers' size")


def fields_are_told_apart(make: Make) -> None:
    """Two fields get two answers."""
    network = make().eval()
    one, other = network(vectors(network, 2))
    require(not torch.equal(one, other), "two fields have the same answer")


def answers_are_invariant(make: Make) -> None:
    """Weights that `invariance` calls the same field have the same answer to 1e-5 of its size."""
    network = make().eval()
    given = vectors(network, 6)
    expected = network(given)
    for seed in range(3):
        worst = relative_error(answer_to_same(network, given, seeded(seed)), expected)
        require(worst <= TOLERANCE, f"invariance is {network.invariance!r}, but the answer moves by {worst:.1e}")


def features_are_equivariant(make: Make) -> None:
    """Where hidden units may change places, each entry's features go where the entry goes, to 1e-5 of their size."""
    network: Any = make().eval()
    if network.invariance != "permutations":
        return
    given = vectors(network, 6)
    change = group_of(network).draw(6, seeded(1), has_signs=False)
    before = group_of(network).apply_to(network.features(network.codec.encode(given)), change)
    after = network.features(network.codec.encode(group_of(network).apply(given, change)))
    for one, other in zip(before.tensors(), after.tensors(), strict=True):
        worst = relative_error(other, one)
        require(worst <= TOLERANCE, f"features of {tuple(one.shape[1:-1])} entries move by {worst:.1e} of their size")
    still = network.features(network.codec.encode(given)).tensors()
    require(any(not torch.equal(a, b) for a, b in zip(still, after.tensors(), strict=True)), "all features are alike")


def single_statistics_are_refused(make: Make) -> None:
    """Where hidden units may change places, statistics of single numbers are refused, with the key's name."""
    network = make()
    config = json.loads(json.dumps(network.config()))
    if network.invariance != "permutations" or "codec" not in config:  # a wrapper's codec is its nested network's
        return
    config["codec"]["statistics"] = "entry"
    try:
        build("weight_network", config, layout=network.layout, n_output_dims=network.n_output_dims)
    except ConfigError as error:
        require(str(error).startswith("codec.statistics"), f"{error!r} does not begin with 'codec.statistics'")
    else:
        raise AssertionError("statistics of single numbers pass")


def config_rebuilds(make: Make) -> None:
    """`config()` is JSON, and the registry builds a network of the same configuration and parameter shapes."""
    network = make()
    again = rebuilt(network, 0)
    require(type(again) is type(network), f"otype {network.otype!r} builds {type(again).__name__}")
    require(again.config() == network.config(), f"{network.config()} came back as {again.config()}")
    require(shapes(again) == shapes(network), "the network rebuilt from config() has other parameters")


def one_seed_one_network(make: Make) -> None:
    """The generator decides every initial number, and torch's global one is left alone."""
    network = make()
    state = torch.get_rng_state()
    first, again, other = rebuilt(network, 0).eval(), rebuilt(network, 0), rebuilt(network, 1).eval()
    require(torch.equal(state, torch.get_rng_state()), "the constructor took numbers from torch's global generator")
    for (name, tensor), same in zip(first.state_dict().items(), again.state_dict().values(), strict=True):
        require(torch.equal(tensor, same), f"{name} differs between two networks of one seed")
    given = vectors(network, 3)
    require(not torch.equal(first(given), other(given)), "another seed gives the same network")


def state_is_complete(make: Make) -> None:
    """Loading one network's state into another of the same configuration makes them the same function."""
    network = make().eval()
    other = rebuilt(network, 1).eval()
    other.load_state_dict(network.state_dict())
    given = vectors(network, 3)
    require(torch.equal(other(given), network(given)), "something random is not in state_dict()")


def builds_on_meta(make: Make) -> None:
    """Under ``torch.device("meta")`` it is built without memory and without drawing numbers."""
    network = make()
    state = torch.get_rng_state()
    with torch.device("meta"):
        sketch = rebuilt(network, None)
    require(torch.equal(state, torch.get_rng_state()), "random numbers were drawn for a network on the meta device")
    real = [name for name, tensor in sketch.state_dict().items() if not tensor.is_meta]
    require(not real, f"allocated outside the default device: {', '.join(real)}")
    require(shapes(sketch) == shapes(network), "parameters have other shapes on the meta device")


def double_is_the_same_function(make: Make) -> None:
    """After ``.double()`` float64 comes out, near the float32 answer."""
    network = make().float().eval()
    given = vectors(network, 3)
    single = network(given)
    double = network.double()(given.double())
    require(double.dtype == torch.float64, f"float64 vectors give {double.dtype} after .double()")
    worst = relative_error(single.double(), double)
    require(worst < 1e-3, f"float32 and float64 answers differ by {worst:.1e} of their size")


def every_parameter_learns(make: Make) -> None:
    """In training mode every parameter has a finite gradient, from the answer or from the features."""
    network: Any = make().train()
    given = vectors(network, 8)
    total = network(given).square().sum()
    if network.invariance == "permutations":
        total = total + sum(one.square().sum() for one in network.features(network.codec.encode(given)).tensors())
    total.backward()
    for name, parameter in network.named_parameters():
        require(parameter.grad is not None, f"{name} has no gradient")
        assert parameter.grad is not None
        require(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite")


def bad_vectors_are_named(make: Make) -> None:
    """Vectors of another length, or of whole numbers, are refused, with "vectors" in front."""
    network = make()
    n = network.layout.n_parameters
    for wrong in (torch.zeros(2, n + 1), torch.zeros(2, n, dtype=torch.long)):
        try:
            network(wrong)
        except (TypeError, ValueError) as error:
            require(str(error).startswith("vectors"), f"{error!r} does not begin with 'vectors'")
        else:
            raise AssertionError(f"vectors of shape {list(wrong.shape)} and {wrong.dtype} pass")


WEIGHT_NETWORK_CHECKS: tuple[Callable[[Make], None], ...] = (
    any_batch,
    fields_are_told_apart,
    answers_are_invariant,
    features_are_equivariant,
    single_statistics_are_refused,
    config_rebuilds,
    one_seed_one_network,
    state_is_complete,
    builds_on_meta,
    double_is_the_same_function,
    every_parameter_learns,
    bad_vectors_are_named,
)


def answer_to_same(network: WeightNetwork[Any], given: Tensor, generator: torch.Generator) -> Tensor:
    """What the network says about other weights of the same fields, as its `invariance` understands it."""
    if network.invariance == "none":
        return network(given)
    if network.invariance == "permutations":
        group = group_of(network)
        return network(group.apply(given, group.draw(len(given), generator, has_signs=False)))
    code = network.codec.encode(given)
    if network.invariance == "rows":
        rows = range(code.shape[1])[getattr(network, "_rows", slice(None))]
        order = torch.arange(code.shape[1])
        order[rows.start : rows.stop] = rows.start + torch.randperm(len(rows), generator=generator)
        return network.read(code[:, order])
    if network.invariance == "channels":
        return network.read(code._replace(channels=code.channels[:, torch.randperm(code.channels.shape[1],
                                                                                    generator=generator)]))  # fmt: skip
    raise AssertionError(f"invariance is {network.invariance!r}, which no check knows")


def group_of(network: Any) -> Any:
    """The symmetries of the fields that the network reads."""
    from fieldforge.fields.weightspace.symmetries import Symmetries

    return Symmetries(network.chain)


def rebuilt(network: WeightNetwork[Any], seed: int | None) -> WeightNetwork[Any]:
    """A network of the same configuration, which goes through JSON, with the numbers of a seed (None: no generator)."""
    config = json.loads(json.dumps(network.config()))
    generator = None if seed is None else seeded(seed)
    again: WeightNetwork[Any] = build(
        "weight_network", config, layout=network.layout, n_output_dims=network.n_output_dims, generator=generator
    )
    return again


def vectors(network: WeightNetwork[Any], n: int) -> Tensor:
    """(n, n_parameters) normal numbers that are the same every time, of the network's dtype."""
    numbers = torch.randn(n, network.layout.n_parameters, generator=seeded(7))
    return numbers.to(next(network.parameters()).dtype)


def shapes(network: WeightNetwork[Any]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of the state by its name."""
    return {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}


def seeded(seed: int) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator("cpu").manual_seed(seed)
