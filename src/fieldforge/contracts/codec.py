"""What every codec of weights promises, as checks to run on one of yours.

    check_codec(lambda: MyCodec(layout))

and what the symmetries of a field's weights promise, on any MLP:

    check_symmetries(lambda generator: MLP(2, 1, activation="Sine", has_bias=True, generator=generator))

The first promise that is not kept raises an AssertionError that begins with the name of its check.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.func import functional_call

from fieldforge.contracts.activation import require, run_checks
from fieldforge.registry import build

if TYPE_CHECKING:
    from fieldforge.fields.networks.mlp import MLP
    from fieldforge.fields.weightspace.codecs.base import WeightCodec

Make = Callable[[], "WeightCodec[Any]"]
MakeMLP = Callable[[torch.Generator], "MLP"]

FUNCTION_TOLERANCE = 1e-6


def check_codec(make: Make) -> None:
    """Run every check of `CODEC_CHECKS` on codecs made by `make`.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.

    Example:
        >>> from fieldforge.fields.weightspace.codecs.tokens import Tokens
        >>> from fieldforge.fields.weightspace.layout import Layout
        >>> check_codec(lambda: Tokens(Layout.from_json('[["a.weight", [3, 2]], ["a.bias", [3]]]'), by="layer"))
    """
    run_checks(CODEC_CHECKS, make)


def check_symmetries(make: MakeMLP) -> None:
    """Run every check of `SYMMETRY_CHECKS` on networks made by `make` from a generator.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.
    """
    run_checks(SYMMETRY_CHECKS, make)


def inverse_is_exact(make: Make) -> None:
    """Without statistics every number comes back, bit for bit, for batches of 0, 1 and 5, in float32 and float64."""
    codec = make()
    for n in (0, 1, 5):
        for dtype in (torch.float32, torch.float64):
            given = vectors(codec, n).to(dtype)
            again = codec.restore(codec.arrange(given))
            require(again.dtype == dtype, f"{dtype} came back as {again.dtype}")
            require(torch.equal(again, given), f"restore(arrange(vectors)) differs for a batch of {n}")


def numbers_are_only_moved(make: Make) -> None:
    """The code holds each number of the vector once, and zeros beside them."""
    codec = make()
    given = torch.arange(1.0, codec.layout.n_parameters + 1)[None]
    numbers = torch.cat([tensor.flatten() for tensor in tensors_of(codec.arrange(given))])
    require(torch.equal(numbers[numbers != 0].sort().values, given[0]), "the code's numbers are not the vector's")


def statistics_invert(make: Make) -> None:
    """With statistics of a set, encoded numbers have mean 0 over it, and every vector comes back to rounding."""
    codec = make()
    for statistics in ("layer", "entry"):
        one = rebuilt(codec, statistics=statistics)
        given = vectors(codec, 64) * 3 + 1
        one.fit(given)
        standard = one.standardize(given)
        require(bool(standard.mean().abs() < 1e-4), f"statistics={statistics!r}: the mean is {float(standard.mean())}")
        again = one.decode(one.encode(given))
        worst = float((again - given).abs().max() / given.abs().max())
        require(worst < 1e-6, f"statistics={statistics!r}: decode(encode(vectors)) is off by {worst:.1e} of its size")


def constant_numbers_survive(make: Make) -> None:
    """Numbers that are the same in every field give no infinities."""
    codec = rebuilt(make(), statistics="entry")
    given = torch.ones(3, codec.layout.n_parameters)
    codec.fit(given)
    require(torch.equal(codec.decode(codec.encode(given)), given), "constant numbers do not come back")


def layout_is_json(make: Make) -> None:
    """The layout goes through JSON, and the registry rebuilds the same codec from it and `config()`."""
    codec = make()
    text = codec.layout.to_json()
    require(type(codec.layout).from_json(text) == codec.layout, f"{text} is read as another layout")
    again = rebuilt(codec)
    require(type(again) is type(codec), f"otype {codec.otype!r} builds {type(again).__name__}")
    require(again.config() == codec.config(), f"{codec.config()} came back as {again.config()}")


def state_is_complete(make: Make) -> None:
    """Statistics travel in the state."""
    codec = rebuilt(make(), statistics="entry")
    given = vectors(codec, 8)
    codec.fit(given)
    again = rebuilt(codec)
    again.load_state_dict(codec.state_dict())
    for one, same in zip(tensors_of(codec.encode(given)), tensors_of(again.encode(given)), strict=True):
        require(torch.equal(one, same), "a codec with the other's state encodes differently")


def bad_vectors_are_named(make: Make) -> None:
    """Vectors of another length, without a batch or of whole numbers are refused, with "vectors" in front."""
    codec = make()
    n = codec.layout.n_parameters
    for wrong in (torch.zeros(2, n + 1), torch.zeros(n), torch.zeros(2, n, dtype=torch.long)):
        try:
            codec.encode(wrong)
        except (TypeError, ValueError) as error:
            require(str(error).startswith("vectors"), f"{error!r} does not begin with 'vectors'")
        else:
            raise AssertionError(f"vectors of shape {list(wrong.shape)} and {wrong.dtype} pass")


CODEC_CHECKS: tuple[Callable[[Make], None], ...] = (
    inverse_is_exact,
    numbers_are_only_moved,
    statistics_invert,
    constant_numbers_survive,
    layout_is_json,
    state_is_complete,
    bad_vectors_are_named,
)


def symmetry_keeps_the_function(make: MakeMLP) -> None:
    """Any order of the hidden units, and any signs the activation allows, is the same function to 1e-6."""
    mlps, group, given = orbit(make)
    changed = group.apply(given, group.draw(len(given), seeded(3)))
    require(not torch.equal(changed, given), "the drawn elements are all the identity")
    require_same_function(mlps, given, changed)


def canonical_form_keeps_the_function(make: MakeMLP) -> None:
    """The canonical form is the same function to 1e-6."""
    mlps, group, given = orbit(make)
    require_same_function(mlps, given, group.canonical(given))


def canonical_form_is_one(make: MakeMLP) -> None:
    """All weights of an orbit have the same canonical form, bit for bit, and it is its own."""
    _, group, given = orbit(make)
    canonical = group.canonical(given)
    require(torch.equal(group.canonical(canonical), canonical), "the canonical form of the canonical form is another")
    for seed in range(3):
        other = group.apply(given, group.draw(len(given), seeded(seed)))
        require(torch.equal(group.canonical(other), canonical), "two weights of one orbit have two canonical forms")


def signs_go_with_parity(make: MakeMLP) -> None:
    """Signs are drawn exactly where the activation is odd or even."""
    _, group, given = orbit(make)
    signs = torch.cat([sign.flatten() for sign in group.draw(len(given), seeded(0)).signs])
    require(bool((signs < 0).any()) == (group.parity != "none"), f"parity {group.parity!r}, but signs {signs.unique()}")


SYMMETRY_CHECKS: tuple[Callable[[MakeMLP], None], ...] = (
    symmetry_keeps_the_function,
    canonical_form_keeps_the_function,
    canonical_form_is_one,
    signs_go_with_parity,
)


def orbit(make: MakeMLP, n: int = 4) -> tuple[MLP, Any, Tensor]:
    """An MLP of float64, its symmetries and the vectors of `n` of its kind."""
    from fieldforge.fields.weightspace.chain import Chain
    from fieldforge.fields.weightspace.layout import Layout
    from fieldforge.fields.weightspace.symmetries import Symmetries

    mlps = [make(seeded(seed)).double() for seed in range(n)]
    layout = Layout.of(mlps[0].state_dict())
    given = layout.stack([mlp.state_dict() for mlp in mlps])
    return mlps[0], Symmetries(Chain.find(layout), mlps[0].activation), given


def require_same_function(mlp: MLP, given: Tensor, changed: Tensor) -> None:
    """The MLPs of two sets of vectors answer the same in float32 points' worth of precision."""
    from fieldforge.fields.weightspace.layout import Layout

    layout = Layout.of(mlp.state_dict())
    x = torch.rand(33, mlp.n_input_dims, generator=seeded(7), dtype=torch.float64) * 2 - 1
    for before, after in zip(given, changed, strict=True):
        one = functional_call(mlp, layout.unflatten(before), (x,))
        other = functional_call(mlp, layout.unflatten(after), (x,))
        worst = float((one - other).abs().max() / one.abs().max().clamp_min(1.0))
        require(worst <= FUNCTION_TOLERANCE, f"the function changes by {worst:.1e} of its size")


def vectors(codec: WeightCodec[Any], n: int) -> Tensor:
    """(n, n_parameters) normal numbers that are the same every time."""
    return torch.randn(n, codec.layout.n_parameters, generator=seeded(7))


def rebuilt(codec: WeightCodec[Any], **changes: Any) -> WeightCodec[Any]:
    """Another codec from the configuration, which goes through JSON on the way."""
    config = json.loads(json.dumps(codec.config() | changes))
    again: WeightCodec[Any] = build("codec", config, layout=codec.layout)
    return again


def tensors_of(code: Any) -> list[Tensor]:
    """Every tensor of a code: a tensor, a tuple of them, or an object that has tuples of them."""
    if isinstance(code, Tensor):
        return [code]
    if isinstance(code, tuple):
        return [tensor for part in code for tensor in tensors_of(part)]
    return [tensor for part in vars(code).values() for tensor in tensors_of(part)]


def seeded(seed: int) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator("cpu").manual_seed(seed)
