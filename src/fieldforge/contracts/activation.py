"""What every activation promises, as checks to run on one of yours.

    check_activation(lambda: MyActivation())

Each check is a function of `make` and stands in `ACTIVATION_CHECKS`; the first promise that is not kept raises an
AssertionError that begins with the name of its check.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from fieldforge.registry import CONTEXT

if TYPE_CHECKING:
    from fieldforge.fields.activations.base import Activation

Make = Callable[[], "Activation"]

CORNERS = (0.0, 0.5, -0.5, 1.0, -1.0)
"""Where an activation's pieces meet, if it has pieces."""


def check_activation(make: Make) -> None:
    """Run every check of `ACTIVATION_CHECKS` on activations made by `make`.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.

    Example:
        >>> from fieldforge.fields.activations.sine import Sine
        >>> check_activation(lambda: Sine(omega=10.0))
    """
    run_checks(ACTIVATION_CHECKS, make)


def values_keep_shape_and_input(make: Make) -> None:
    """Any shape goes in and comes out, also none, empty and non-contiguous; the input is not written to."""
    activation = make()
    for z in (torch.tensor(0.3), torch.zeros(0, 3), torch.linspace(-1, 1, 12).reshape(2, 3, 2)):
        for is_first in (False, True):
            before = z.clone()
            out = activation(z, is_first=is_first)
            require(out.shape == z.shape, f"shape {tuple(z.shape)} went in, {tuple(out.shape)} came out")
            require(torch.equal(z, before), "forward wrote to its argument")
    z = torch.linspace(-1, 1, 12).reshape(3, 4)
    worst = relative_error(activation(z.T), activation(z).T)
    require(worst < 1e-6, f"values of a transposed (non-contiguous) tensor differ by {worst:.1e} of their size")


def values_are_elementwise(make: Make) -> None:
    """A value depends on its own entry alone."""
    activation = make()
    z = torch.linspace(-1, 1, 9, dtype=torch.float64)
    alone = torch.stack([activation(one) for one in z])
    require(torch.allclose(activation(z), alone), "values computed together and one by one differ")


def type_follows_input(make: Make) -> None:
    """float32 gives float32 and float64 float64, or the complex type of that precision when `is_complex` says so."""
    activation = make()
    for dtype in (torch.float32, torch.float64):
        expected = dtype.to_complex() if activation.is_complex else dtype
        z = torch.zeros(3, dtype=dtype)
        for name, out in (("forward", activation(z)), ("derivative", activation.derivative(z))):
            message = (
                f"{name} of {dtype} with is_complex = {activation.is_complex} should be {expected}, is {out.dtype}"
            )
            require(out.dtype == expected, message)


def derivative_is_what_autograd_gives(make: Make) -> None:
    """`derivative` equals the derivative that autograd takes of `forward`, corners included."""
    activation = make()
    z = torch.cat([torch.tensor(CORNERS), torch.linspace(-1.9, 1.9, 40)]).double()
    for is_first in (False, True):
        expected = slope_by_autograd(partial(activation, is_first=is_first), z)
        worst = relative_error(activation.derivative(z, is_first=is_first), expected)
        require(worst < 1e-8, f"derivative(is_first={is_first}) is off autograd's by {worst:.1e} of its size")


def derivative_is_the_slope(make: Make) -> None:
    """Where one continuous derivative is declared, `derivative` is the slope of the function."""
    activation = make()
    if activation.smoothness < 1:
        return
    z, step = torch.linspace(-1.9, 1.9, 41, dtype=torch.float64) + 1e-3, 1e-6
    slope = (activation(z + step) - activation(z - step)) / (2 * step)
    worst = relative_error(activation.derivative(z), slope)
    require(worst < 1e-5, f"derivative is off the slope of forward by {worst:.1e} of its size")


def smoothness_is_true(make: Make) -> None:
    """As many derivatives as declared (looked at up to two) have no jump at 0, ±1/2, ±1."""
    activation = make()
    at, step = torch.tensor(CORNERS, dtype=torch.float64), 1e-9

    def second(z: Tensor) -> Tensor:
        return slope_by_autograd(activation.derivative, z)

    functions: tuple[Callable[[Tensor], Tensor], ...] = (activation, activation.derivative, second)
    for order, function in enumerate(functions):
        if order > activation.smoothness:
            return
        size = function(torch.linspace(-1, 1, 101, dtype=torch.float64) + 1e-3).abs().max()
        jump = (function(at + step) - function(at - step)).abs().max() / size.clamp_min(1e-12)
        require(
            bool(jump < 1e-2),
            f"smoothness is {activation.smoothness}, but derivative {order} jumps by {jump:.2g} of its size",
        )


def derivatives_are_finite(make: Make) -> None:
    """In float32, value, first and second derivative by autograd are finite at and near 0 and at ordinary sizes."""
    activation = make()
    z = torch.tensor([0.0, -0.0, 1e-30, -1e-30, 1e-12, 1e-6, -1e-6, 0.1, -0.1, 1.0, -1.0, 5.0, -5.0])

    def first(at: Tensor) -> Tensor:
        return slope_by_autograd(activation, at)

    for name, out in (
        ("value", activation(z)),
        ("first derivative", first(z)),
        ("second", slope_by_autograd(first, z)),
    ):
        bad = z[~torch.isfinite(torch.view_as_real(out).sum(-1) if out.is_complex() else out)]
        require(len(bad) == 0, f"{name} is not finite at z = {bad.tolist()}")


def initial_weights_are_drawn(make: Make) -> None:
    """Both laws fill weight and bias in place, take bias None, use only the generator, repeat with its seed."""
    activation = make()
    is_complex = activation.is_complex
    for name, draw in (("init_first", activation.init_first), ("init_hidden", activation.init_hidden)):
        dtype = torch.complex64 if is_complex and name == "init_hidden" else torch.float32

        def drawn(seed: int, draw: Callable[..., None] = draw, dtype: torch.dtype = dtype) -> tuple[Tensor, Tensor]:
            weight, bias = torch.full((16, 8), torch.nan, dtype=dtype), torch.full((16,), torch.nan, dtype=dtype)
            draw(weight, bias, torch.Generator().manual_seed(seed))
            return weight, bias

        state = torch.get_rng_state()
        (weight, bias), again, other = drawn(0), drawn(0), drawn(1)
        require(torch.equal(state, torch.get_rng_state()), f"{name} took numbers from torch's global generator")
        require(not bool(torch.isnan(weight).any() | torch.isnan(bias).any()), f"{name} left entries undrawn")
        require(torch.equal(weight, again[0]) and torch.equal(bias, again[1]), f"{name}: one seed gave two results")
        require(not torch.equal(weight, other[0]), f"{name}: another seed gave the same weights")
        require(bool((weight != weight[0, 0]).any()), f"{name} gives every connection the same weight")
        draw(torch.empty(16, 8, dtype=dtype), None, torch.Generator())
        draw(torch.empty(16, 8, dtype=dtype, device="meta"), None, torch.Generator())


def config_rebuilds(make: Make) -> None:
    """`config()` is JSON and its keywords build the same activation again."""
    activation = make()
    again = rebuild(activation)
    require(again.config() == activation.config(), f"{activation.config()} came back as {again.config()}")
    z = torch.linspace(-1, 1, 9)
    for is_first in (False, True):
        same = torch.equal(activation(z, is_first=is_first), again(z, is_first=is_first))
        require(
            same, "the activation rebuilt from config() is another function: is every keyword kept as an attribute?"
        )


ACTIVATION_CHECKS: tuple[Callable[[Make], None], ...] = (
    values_keep_shape_and_input,
    values_are_elementwise,
    type_follows_input,
    derivative_is_what_autograd_gives,
    derivative_is_the_slope,
    smoothness_is_true,
    derivatives_are_finite,
    initial_weights_are_drawn,
    config_rebuilds,
)


def run_checks(checks: Sequence[Callable[[Any], None]], make: Callable[..., Any]) -> None:
    """Run checks in order; what fails says which check it was."""
    for check in checks:
        try:
            check(make)
        except AssertionError as broken:
            raise AssertionError(f"{check.__name__}: {broken}") from None
        except Exception as error:
            error.add_note(f"while checking {check.__name__}: {(check.__doc__ or '').strip()}")
            raise


def require(holds: bool, message: str) -> None:
    """Raise an AssertionError that survives ``python -O``."""
    if not holds:
        raise AssertionError(message)


def rebuild(part: Any, **context: Any) -> Any:
    """Another of the same class from its `config()`, which goes through JSON on the way."""
    config: dict[str, Any] = json.loads(json.dumps(part.config()))
    require(config.pop("otype") == part.otype, "config() has another otype")
    accepted = set(inspect.signature(type(part)).parameters)
    require(not accepted & CONTEXT & set(config), "config() holds what the surroundings give (n_input_dims, ...)")
    return type(part)(**{name: value for name, value in context.items() if name in accepted}, **config)


def slope_by_autograd(function: Callable[[Tensor], Tensor], z: Tensor) -> Tensor:
    """d function / dz of a function applied entry by entry, real or complex values, differentiable again."""
    z = z if z.requires_grad else z.detach().clone().requires_grad_()
    out = function(z)
    if not out.requires_grad:
        return torch.zeros_like(out)
    parts = (out.real, out.imag) if out.is_complex() else (out,)
    slopes = [torch.autograd.grad(part.sum(), z, create_graph=True, materialize_grads=True)[0] for part in parts]
    return torch.complex(*slopes) if out.is_complex() else slopes[0]


def relative_error(value: Tensor, expected: Tensor) -> float:
    """Largest deviation, in units of the largest expected size."""
    return float(((value - expected).abs().max() / expected.abs().max().clamp_min(1e-12)).detach())
