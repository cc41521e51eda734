"""What every encoding promises, as checks to run on one of yours.

    check_encoding(lambda: MyEncoding(3))
    check_encoding(lambda generator: MyEncoding(3, generator=generator))   # draws its parameters

and one test per promise with pytest::

    @pytest.mark.parametrize(("name", "check"), encoding_checks())
    def test_my_encoding(name, check):
        check(lambda: MyEncoding(3))

Make it small (a few thousand parameters), and with a lattice coarser than 1/1000 if it has one. Without the argument
``generator`` parameters come from torch's global generator, which the checks seed and afterwards put back.
"""

from __future__ import annotations

import functools
import inspect
import json
import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fieldforge.contracts.activation import relative_error, require, slope_by_autograd
from fieldforge.registry import build

if TYPE_CHECKING:
    from fieldforge.encodings.base import Encoding

Make = Callable[..., Any]
Check = Callable[[Make, int], None]


def check_encoding(make: Make, *, n_points: int = 64) -> None:
    """Run every check of `ENCODING_CHECKS` on encodings made by `make`.

    Args:
        make: gives a new encoding; called without arguments, or with ``generator=`` when it names one.
        n_points: how many points a check looks at; derivatives are checked at a few of them.

    Raises:
        AssertionError: a promise is not kept; the message begins with the name of the check.

    Example:
        >>> from fieldforge.encodings.identity import Identity
        >>> check_encoding(lambda: Identity(2, scale=3.0))
    """
    for _, check in encoding_checks():
        check(make, n_points=n_points)


def encoding_checks() -> Iterator[tuple[str, Callable[..., None]]]:
    """(name, function of make and n_points) for every promise, for a test runner to list one by one."""
    for check in ENCODING_CHECKS:
        yield check.__name__, functools.partial(_run, check)


def attributes_are_stated(make: Make, n_points: int) -> None:
    """otype, domain, outside, smoothness, n_input_dims and n_output_dims are there and mean something."""
    encoding = made(make)
    require(isinstance(encoding, torch.nn.Module), f"expected a torch.nn.Module, got {type(encoding).__name__}")
    for name in ("otype", "domain", "outside", "smoothness", "n_input_dims", "n_output_dims"):
        require(hasattr(encoding, name), f"{type(encoding).__name__} has no attribute {name}")
    require(bool(encoding.otype), "otype is empty: it is the name in a configuration")
    domains = ("unit cube", "reals", "direction")
    require(encoding.domain in domains, f"domain is {encoding.domain!r}, not one of {', '.join(domains)}")
    require(
        isinstance(encoding.outside, str) and bool(encoding.outside.strip()),
        "outside should say in a sentence what happens outside the domain",
    )
    require(
        isinstance(encoding.smoothness, (int, float)) and encoding.smoothness >= -1,
        f"smoothness is {encoding.smoothness!r}, not a number of derivatives (-1 for a function that jumps)",
    )
    for name in ("n_input_dims", "n_output_dims"):
        size = getattr(encoding, name)
        require(type(size) is int and size >= 1, f"{name} is {size!r}, not a positive integer")


def outputs_have_the_stated_shape(make: Make, n_points: int) -> None:
    """(*batch, n_input_dims) gives (*batch, n_output_dims), for no batch axis, one, two, and empty ones."""
    encoding = made(make)
    for batch in ((), (1,), (5,), (2, 3), (0,), (2, 0, 3)):
        x = points(encoding, math.prod(batch)).reshape(*batch, encoding.n_input_dims)
        shape, expected = tuple(encoding(x).shape), (*batch, encoding.n_output_dims)
        require(shape == expected, f"{tuple(x.shape)} went in, {shape} came out; n_output_dims promises {expected}")


def layout_of_memory_does_not_matter(make: Make, n_points: int) -> None:
    """Transposed, strided and expanded points give what their contiguous copies give; x is not written to."""
    encoding = made(make)
    x = points(encoding, n_points)
    strided = torch.stack([x, x + 0.1], -1)[..., 0]
    for name, view in (("transposed", x.T.contiguous().T), ("strided", strided), ("expanded", x[:1].expand(7, -1))):
        copy = view.clone(memory_format=torch.contiguous_format)
        worst = relative_error(encoding(view), encoding(copy))
        require(worst < 1e-6, f"features of {name} (non-contiguous) points differ by {worst:.1e} of their size")
        require(torch.equal(view, copy), "forward wrote to its argument")


def wrong_points_are_refused(make: Make, n_points: int) -> None:
    """A wrong last axis is a ValueError naming both sizes; integers are a TypeError naming their type."""
    encoding = made(make)
    n_dims = encoding.n_input_dims
    message = _refusal(encoding, torch.zeros(4, n_dims + 1), ValueError)
    for size in (n_dims, n_dims + 1):
        require(str(size) in message, f"the error for {n_dims + 1} coordinates instead of {n_dims} says: {message!r}")
    _refusal(encoding, torch.tensor(0.5), ValueError)
    message = _refusal(encoding, torch.zeros(4, n_dims, dtype=torch.int64), TypeError)
    require("int64" in message, f"the error for int64 coordinates does not name the type: {message!r}")


def points_are_independent(make: Make, n_points: int) -> None:
    """A point's features do not depend on the points beside it."""
    encoding = randomised(make)
    x = points(encoding, min(n_points, 16)).double()
    worst = relative_error(encoding(x), torch.stack([encoding(one) for one in x]))
    require(worst < 1e-12, f"points together and one by one differ by {worst:.1e} of the features' size")


def forward_repeats(make: Make, n_points: int) -> None:
    """The same call gives the same bits, features and gradients."""
    encoding = made(make)
    x = points(encoding, n_points).requires_grad_()
    for name, run in (("features", lambda: [encoding(x)]), ("gradients", lambda: gradients(encoding, x))):
        same = all(torch.equal(one, other) for one, other in zip(run(), run(), strict=True))
        require(same, f"two calls with the same points gave different {name}")


def seed_decides_parameters(make: Make, n_points: int) -> None:
    """The same seed gives the same parameters; a generator that is given is the only source of chance."""
    first, again = made(make, seed=3).state_dict(), made(make, seed=3).state_dict()
    for name, value in first.items():
        require(torch.equal(value, again[name]), f"{name} differs between two encodings of one seed")
    if "generator" in inspect.signature(make).parameters:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1)
            before = torch.get_rng_state()
            other = make(generator=torch.Generator().manual_seed(3)).state_dict()
            require(
                torch.equal(before, torch.get_rng_state()), "torch's global generator was used beside the given one"
            )
        for name, value in first.items():
            require(torch.equal(value, other[name]), f"{name} depends on more than the generator")


def config_rebuilds(make: Make, n_points: int) -> None:
    """`config()` is JSON; the registry builds from it an encoding of the same parameters and function."""
    encoding = made(make)
    config = encoding.config()
    try:
        text = json.dumps(config, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise AssertionError(f"config() is not JSON ({error}): {config!r}") from None
    again: Encoding = build("encoding", json.loads(text), n_input_dims=encoding.n_input_dims)
    require(again.config() == config, f"{config} came back as {again.config()}")
    state = encoding.state_dict()
    shapes, other = ({name: tuple(value.shape) for name, value in one.items()} for one in (state, again.state_dict()))
    require(shapes == other, f"parameters were {shapes}, rebuilt from config() they are {other}")
    again.load_state_dict(state)
    x = points(encoding, n_points)
    require(
        torch.equal(encoding(x), again(x)),
        "the encoding rebuilt from config() is another function: is every keyword kept as an attribute?",
    )


def precision_follows_the_module(make: Make, n_points: int) -> None:
    """float32 as made; after `.double()`, float64 points give float64 features, close to those of float32."""
    encoding = made(make)
    x = points(encoding, n_points)
    single = encoding(x)
    require(single.dtype == torch.float32, f"a float32 encoding of float32 points gave {single.dtype}")
    double = encoding.double()(x.double())
    require(double.dtype == torch.float64, f"after .double(), float64 points gave {double.dtype}")
    worst = relative_error(single.double(), double)
    require(worst < 1e-2, f"float32 and float64 features differ by {worst:.1e} of their size")


def builds_without_memory(make: Make, n_points: int) -> None:
    """Under ``torch.device("meta")`` it can be made, with parameters of the same shapes."""
    shapes = {name: tuple(value.shape) for name, value in made(make).state_dict().items()}
    with torch.device("meta"):
        encoding = made(make)
    for name, value in encoding.named_parameters():
        require(value.is_meta, f"parameter {name} is on {value.device}, although the device in force is meta")
    other = {name: tuple(value.shape) for name, value in encoding.state_dict().items()}
    require(shapes == other, f"parameters are {shapes}, on meta {other}")


def gradients_exist(make: Make, n_points: int) -> None:
    """x and every parameter receive a finite gradient of their own shape."""
    encoding = made(make)
    x = points(encoding, n_points).requires_grad_()
    wanted = {"x": x, **dict(encoding.named_parameters())}
    features = encoding(x)
    require(features.requires_grad, "features do not require a gradient, although x does")
    found = torch.autograd.grad(features.square().sum(), list(wanted.values()), allow_unused=True)
    for name, gradient in zip(wanted, found, strict=True):
        require(gradient is not None, f"no gradient reaches {name}")
        require(bool(torch.isfinite(gradient).all()), f"the gradient of {name} is not finite")


def first_derivatives_are_true(make: Make, n_points: int) -> None:
    """In float64 the gradients of x and of the parameters are the slopes of the function (finite differences)."""
    function, arguments = as_function(randomised(make), min(n_points, 4))
    require(
        torch.autograd.gradcheck(function, arguments, fast_mode=True, raise_exception=False),
        f"gradients are not the function's slopes: {_complaint(torch.autograd.gradcheck, function, arguments)}",
    )


def second_derivatives_are_true(make: Make, n_points: int) -> None:
    """In float64 the gradients of the gradients are their slopes, at points where no piece ends."""
    function, arguments = as_function(randomised(make), min(n_points, 4))
    require(
        torch.autograd.gradgradcheck(function, arguments, fast_mode=True, raise_exception=False),
        f"second derivatives are not the slopes of first: "
        f"{_complaint(torch.autograd.gradgradcheck, function, arguments)}",
    )


def smoothness_is_true(make: Make, n_points: int) -> None:
    """As many derivatives as declared (looked at up to two) have no jump along random lines."""
    encoding = randomised(make)
    generator = torch.Generator().manual_seed(5)
    start = points(encoding, 8 * n_points).double() * 0.95 + 0.02
    direction = torch.randn(start.shape, generator=generator, dtype=torch.float64)
    direction = direction / direction.norm(dim=-1, keepdim=True)
    mix = torch.randn(encoding.n_output_dims, generator=generator, dtype=torch.float64)
    value: Callable[[Tensor], Tensor] = lambda s: encoding(start + s[:, None] * direction) @ mix  # noqa: E731
    for order in range(3):
        if order > encoding.smoothness:
            return
        jump, size = _largest_jump(value, len(start))
        require(
            jump <= 1e-3 * size,
            f"smoothness is {encoding.smoothness}, but derivative {order} jumps by {jump:.2g} where it is up to "
            f"{size:.2g}",
        )
        value = functools.partial(slope_by_autograd, value)


def outside_is_harmless(make: Make, n_points: int) -> None:
    """Features and gradients are finite well outside the domain; no coordinate, not even infinity or NaN, is an
    error."""
    encoding = made(make)
    x = points(encoding, n_points)
    for far in (-0.01, 1.01, -3.7, 5.3, -100.25, 100.25):
        beyond = (x - 0.5 + far).requires_grad_()
        bad = [name for name, one in _named_gradients(encoding, beyond) if not torch.isfinite(one).all()]
        require(not bad, f"around {far} these are not finite: {', '.join(bad)}")
    for extreme in (1e6, -1e6, 1e30, -1e30, math.inf, -math.inf, math.nan):
        gradients(encoding, torch.full_like(x, extreme).requires_grad_())


def channels_are_ordered(make: Make, n_points: int) -> None:
    """`channel_order()` is None or one non-negative integer for each output channel."""
    encoding = made(make)
    order = encoding.channel_order()
    if order is None:
        return
    require(isinstance(order, Tensor), f"channel_order() is a {type(order).__name__}, not a tensor or None")
    require(
        tuple(order.shape) == (encoding.n_output_dims,),
        f"channel_order() has shape {tuple(order.shape)} for {encoding.n_output_dims} channels",
    )
    require(not order.is_floating_point() and bool((order >= 0).all()), f"ranks are integers from 0, got {order}")


ENCODING_CHECKS: tuple[Check, ...] = (
    attributes_are_stated,
    outputs_have_the_stated_shape,
    layout_of_memory_does_not_matter,
    wrong_points_are_refused,
    points_are_independent,
    forward_repeats,
    seed_decides_parameters,
    config_rebuilds,
    precision_follows_the_module,
    builds_without_memory,
    gradients_exist,
    first_derivatives_are_true,
    second_derivatives_are_true,
    smoothness_is_true,
    outside_is_harmless,
    channels_are_ordered,
)


def made(make: Make, seed: int = 0) -> Encoding:
    """An encoding of a seed; the global generator is as before afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if "generator" in inspect.signature(make).parameters:
            encoding: Encoding = make(generator=torch.Generator().manual_seed(seed))
        else:
            encoding = make()
    return encoding


def randomised(make: Make) -> Encoding:
    """In float64, with parameters of size 1, so that no derivative is small for want of parameters."""
    encoding = made(make).double()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return encoding


def points(encoding: Encoding, n_points: int) -> Tensor:
    """(n_points, n_input_dims) float32 points of the domain, a little inside."""
    generator = torch.Generator().manual_seed(2)
    x = torch.rand(n_points, encoding.n_input_dims, generator=generator)
    if encoding.domain == "direction":
        v = x - 0.5
        return 0.5 + 0.5 * v / v.norm(dim=-1, keepdim=True).clamp_min(1e-6)
    if encoding.domain == "reals":
        return 3 * x - 1.5
    return 0.02 + 0.96 * x


def gradients(encoding: Encoding, x: Tensor) -> list[Tensor]:
    """Of the sum of squared features, for x and every parameter."""
    wanted = [x, *encoding.parameters()]
    return list(torch.autograd.grad(encoding(x).square().sum(), wanted, materialize_grads=True))


def as_function(encoding: Encoding, n_points: int) -> tuple[Callable[..., Tensor], tuple[Tensor, ...]]:
    """The encoding as a function of x and its parameters, and float64 arguments for it."""
    names = [name for name, _ in encoding.named_parameters()]
    values = [value.detach().clone().requires_grad_() for _, value in encoding.named_parameters()]

    def function(x: Tensor, *parameters: Tensor) -> Tensor:
        replaced = dict(zip(names, parameters, strict=True))
        features: Tensor = torch.func.functional_call(encoding, replaced, (x,))
        return features

    return function, (points(encoding, n_points).double().requires_grad_(), *values)


def _run(check: Check, make: Make, n_points: int = 64) -> None:
    """What goes wrong in a check is an AssertionError that says which check it was."""
    try:
        check(make, n_points)
    except AssertionError as broken:
        raise AssertionError(f"{check.__name__}: {broken}") from None
    except Exception as error:
        promise = " ".join((check.__doc__ or "").split())
        raise AssertionError(f"{check.__name__}: {type(error).__name__}: {error} (the promise: {promise})") from error


def _refusal(encoding: Encoding, x: Tensor, expected: type[Exception]) -> str:
    """The message with which x is refused."""
    what = f"{x.dtype} of shape {tuple(x.shape)} for n_input_dims={encoding.n_input_dims}"
    try:
        encoding(x)
    except expected as error:
        return str(error)
    except Exception as error:
        raise AssertionError(f"{what} raised {type(error).__name__} ({error}), not {expected.__name__}") from error
    raise AssertionError(f"{what} was accepted; expected a {expected.__name__}")


def _named_gradients(encoding: Encoding, x: Tensor) -> list[tuple[str, Tensor]]:
    names = ["gradient of x", *(f"gradient of {name}" for name, _ in encoding.named_parameters())]
    return [("features", encoding(x)), *zip(names, gradients(encoding, x), strict=True)]


def _complaint(check: Callable[..., bool], function: Callable[..., Tensor], arguments: tuple[Tensor, ...]) -> str:
    """What PyTorch's own check says, in one line."""
    try:
        check(function, arguments, fast_mode=True)
    except Exception as error:
        return " ".join(str(error).split())[:400]
    return "nothing"


def _largest_jump(function: Callable[[Tensor], Tensor], n_lines: int) -> tuple[float, float]:
    """The change that does not go away as intervals shrink, and the size of the function.

    Each line begins with the interval [0, 1/64] and keeps the half across which the function changes more, until
    an interval is 2e-11 long: any finite slope has vanished by then, a jump has not.
    """
    low = torch.zeros(n_lines, dtype=torch.float64)
    high = torch.full_like(low, 1 / 64)
    at_low, at_high = function(low).detach(), function(high).detach()
    size = float(torch.stack([at_low, at_high]).abs().max())
    for _ in range(30):
        middle = (low + high) / 2
        at_middle = function(middle).detach()
        goes_left = (at_middle - at_low).abs() > (at_high - at_middle).abs()
        low, at_low = torch.where(goes_left, low, middle), torch.where(goes_left, at_low, at_middle)
        high, at_high = torch.where(goes_left, middle, high), torch.where(goes_left, at_middle, at_high)
    return float((at_high - at_low).abs().max()), size
