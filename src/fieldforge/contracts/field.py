"""What every field promises, as checks to run on one of yours.

    check_field(lambda: MyField(encoding="HashGrid", network="MLP", ...))

`make` should give a small field of a registered otype; the checks rebuild it from its configuration, save it to a
temporary folder and load it. Each check stands in `FIELD_CHECKS`; the first promise that is not kept raises an
AssertionError that begins with the name of its check.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fieldforge.contracts.activation import require, run_checks
from fieldforge.fields.file import load_field, save_field
from fieldforge.fields.kinds.base import Field
from fieldforge.registry import build

Make = Callable[[], Field]


def check_field(make: Make) -> None:
    """Run every check of `FIELD_CHECKS` on fields made by `make`.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.

    Example:
        >>> from fieldforge.fields.kinds.image import ImageField
        >>> network = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1}
        >>> check_field(lambda: ImageField(encoding="Identity", network=network, width=4, height=3))
    """
    run_checks(FIELD_CHECKS, make)


def world_is_stated(make: Make) -> None:
    """The box has a low and a high corner, finite and apart; units and the answer outside are put in words."""
    field = make()
    low, high = field.box
    require(len(low) == len(high) == field.n_input_dims, f"box {field.box} is not of {field.n_input_dims} dimensions")
    for a, b in zip(low, high, strict=True):
        require(math.isfinite(a) and math.isfinite(b) and a < b, f"box {field.box} is empty or endless")
    require(bool(field.units) and bool(field.outside), "units and outside need a phrase each")
    corners = torch.tensor(field.box, dtype=torch.float32)
    require(torch.equal(field.to_unit(corners), torch.tensor([[0.0], [1.0]]).expand_as(corners)), "to_unit misses 0, 1")


def any_batch_shape(make: Make) -> None:
    """(*batch, d) -> (*batch, ...) for no batch axis, an empty one, several, and non-contiguous points."""
    field = make()
    rest = field(points(field)).shape
    for batch in ((0,), (5,), (2, 0), (2, 3)):
        out = field(points(field, *batch))
        require(out.shape == (*batch, *rest), f"batch {batch}: expected {(*batch, *rest)}, got {tuple(out.shape)}")
    strided = points(field, 4).T.contiguous().T
    require(torch.equal(field(strided), field(strided.contiguous())), "non-contiguous points give other answers")


def answers_are_finite(make: Make) -> None:
    """Inside the box, on its border, and far outside."""
    field = make()
    corners = torch.tensor(field.box, dtype=torch.float32)
    for name, where in (("inside", points(field, 9)), ("at a corner", corners), ("far away", corners * 1e4 - 1e4)):
        require(bool(torch.isfinite(field(where)).all()), f"an answer {name} is not finite")


def bad_points_are_named(make: Make) -> None:
    """Points of the wrong dimension or of whole numbers are refused with a message that begins with 'points'."""
    field = make()
    for wrong in (torch.zeros(4, field.n_input_dims + 1), torch.zeros(4, field.n_input_dims, dtype=torch.long)):
        try:
            field(wrong)
        except (TypeError, ValueError) as error:
            require(str(error).startswith("points"), f"{error!r} does not begin with 'points'")
        else:
            raise AssertionError(f"points of shape {tuple(wrong.shape)} and {wrong.dtype} pass")


def config_rebuilds(make: Make) -> None:
    """`config()` is JSON, complete, and the registry builds the same field from it: same box, names and shapes."""
    field = make()
    again = seeded(field, 0)
    require(again.config() == field.config(), f"{field.config()} came back as {again.config()}")
    require(again.box == field.box, f"box {field.box} came back as {again.box}")
    require(shapes(again) == shapes(field), "the field rebuilt from config() has other parameters")


def one_seed_one_field(make: Make) -> None:
    """The generator decides every initial number, and torch's global one is left alone."""
    field = make()
    state = torch.get_rng_state()
    first, again = seeded(field, 0), seeded(field, 0)
    require(torch.equal(state, torch.get_rng_state()), "the constructor took numbers from torch's global generator")
    for name, tensor in first.state_dict().items():
        require(torch.equal(tensor, again.state_dict()[name]), f"{name} differs between two fields of one seed")


def builds_on_meta(make: Make) -> None:
    """Under ``torch.device("meta")`` it is built without memory: that is how a file is checked before it is loaded."""
    field = make()
    with torch.device("meta"):
        sketch = seeded(field, 0)
    real = [name for name, tensor in sketch.state_dict().items() if not tensor.is_meta]
    require(not real, f"allocated outside the default device: {', '.join(real)}")
    require(shapes(sketch) == shapes(field), "parameters have other shapes on the meta device")


def file_keeps_every_bit(make: Make) -> None:
    """Saved and loaded, in float32 and float64, every tensor of the state and every answer is the same."""
    for field in (make().float(), make().double()):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "check.field"
            save_field(path, field, metadata={"signal": {"name": "check"}})
            loaded, metadata = load_field(path)
        require(metadata == {"signal": {"name": "check"}}, f"the metadata came back as {metadata}")
        for name, tensor in field.state_dict().items():
            same = loaded.state_dict()[name]
            require(same.dtype == tensor.dtype and torch.equal(same, tensor), f"{name} came back different")
        at = points(field, 5)
        require(torch.equal(loaded(at), field(at)), "the loaded field answers differently: its state is not complete")


def double_is_the_same_function(make: Make) -> None:
    """After ``.double()`` float64 comes out, near the float32 answer."""
    field = make().float()
    at = points(field, 5)
    single = field(at)
    double = field.double()(at.double())
    require(double.dtype == torch.float64, f"float64 points give {double.dtype} after .double()")
    size = double.abs().max().clamp_min(1.0)
    require(bool((single - double).abs().max() <= 1e-3 * size), "float32 and float64 answers differ by more than 1e-3")


FIELD_CHECKS: tuple[Callable[[Make], None], ...] = (
    world_is_stated,
    any_batch_shape,
    answers_are_finite,
    bad_points_are_named,
    config_rebuilds,
    one_seed_one_field,
    builds_on_meta,
    file_keeps_every_bit,
    double_is_the_same_function,
)


def seeded(field: Field, seed: int) -> Field:
    """A field of the same configuration, which goes through JSON on the way, with the numbers of a seed."""
    config: dict[str, Any] = json.loads(json.dumps(field.config()))
    again = build("field", config, generator=torch.Generator("cpu").manual_seed(seed))
    require(type(again) is type(field), f"otype {config['otype']!r} builds {type(again).__name__}")
    return again


def points(field: Field, *batch: int) -> Tensor:
    """(*batch, n_input_dims) world points of the box that are the same every time."""
    low, high = torch.tensor(field.box, dtype=torch.float32)
    return low + (high - low) * torch.rand(*batch, field.n_input_dims, generator=torch.Generator().manual_seed(7))


def shapes(field: Field) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor of the state by its name."""
    return {name: tuple(tensor.shape) for name, tensor in field.state_dict().items()}
