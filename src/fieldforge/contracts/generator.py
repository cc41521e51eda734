"""What every denoiser and every generator of weights promises, as checks to run on one of yours.

    check_denoiser(lambda: MyDenoiser(layout, n_classes=3))
    check_generator(lambda: MyGenerator(layout))

`make` should give a small one for a layout of some ten to some hundred numbers; the checks rebuild it from its
configuration for other seeds. The first promise that is not kept raises an AssertionError that begins with the name of
its check.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from fieldforge.contracts.activation import relative_error, require, run_checks
from fieldforge.registry import ConfigError, build

if TYPE_CHECKING:
    from fieldforge.fields.weightspace.denoisers.base import Denoiser
    from fieldforge.fields.weightspace.generators.base import Generator

MakeDenoiser = Callable[[], "Denoiser"]
MakeGenerator = Callable[[], "Generator"]

TOLERANCE = 1e-5
N_FIELDS = 24


def check_denoiser(make: MakeDenoiser) -> None:
    """Run every check of `DENOISER_CHECKS` on denoisers made by `make`, which should have classes.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.

    Example:
        >>> from fieldforge.fields.weightspace.denoisers.residual_mlp import ResidualMLP
        >>> from fieldforge.fields.weightspace.layout import Layout
        >>> check_denoiser(lambda: ResidualMLP(Layout.from_json('[["a.weight", [3, 2]]]'), width=8, n_classes=2))
    """
    run_checks(DENOISER_CHECKS, make)


def check_generator(make: MakeGenerator) -> None:
    """Run every check of `GENERATOR_CHECKS` on generators made by `make`.

    Raises:
        AssertionError: a promise is not kept; the message names the check and what was seen.

    Example:
        >>> from fieldforge.fields.weightspace.generators.gaussian import Gaussian
        >>> from fieldforge.fields.weightspace.layout import Layout
        >>> check_generator(lambda: Gaussian(Layout.from_json('[["a.weight", [3, 2]]]')))
    """
    run_checks(GENERATOR_CHECKS, make)


# ---------------------------------------------------------------------------------------------------- denoisers


def any_batch(make: MakeDenoiser) -> None:
    """(batch, n_parameters) stays so for 0, 1 and 5 fields; each answer is its own field's, at its own step."""
    denoiser = trained(make())
    x, t = vectors(denoiser, 5), torch.tensor([1, 2, 7, 30, 100])
    with torch.no_grad():
        for n in (0, 1, 5):
            out = denoiser(x[:n], t[:n])
            require(out.shape == x[:n].shape, f"{n} fields: expected {list(x[:n].shape)}, got {list(out.shape)}")
        alone = torch.cat([denoiser(one[None], step[None]) for one, step in zip(x, t, strict=True)])
        worst = relative_error(alone, denoiser(x, t))
    require(worst < TOLERANCE, f"fields together and one by one differ by {worst:.1e} of the answers' size")


def steps_are_told_apart(make: MakeDenoiser) -> None:
    """The answer depends on the step."""
    denoiser = trained(make())
    x = vectors(denoiser, 1)
    one, other = denoiser(x, torch.tensor([1])), denoiser(x, torch.tensor([90]))
    require(not torch.equal(one, other), "steps 1 and 90 have the same answer")


def labels_are_told_apart(make: MakeDenoiser) -> None:
    """With classes, the answer depends on the label; None is the label -1; a label beyond them is refused by name."""
    denoiser = trained(make())
    x, t = vectors(denoiser, 1), torch.tensor([5])
    n = denoiser.n_classes
    if n:
        require(not torch.equal(denoiser(x, t, torch.tensor([0])), denoiser(x, t)), "label 0 and no label are alike")
        require(torch.equal(denoiser(x, t, torch.tensor([-1])), denoiser(x, t)), "label -1 is not 'no label'")
    for wrong in (torch.tensor([n]), torch.tensor([-2]) if n else torch.tensor([0])):
        try:
            denoiser(x, t, wrong)
        except ValueError as error:
            require(str(error).startswith("labels"), f"{error!r} does not begin with 'labels'")
        else:
            raise AssertionError(f"label {int(wrong)} passes, of {n} classes")


def denoiser_config_rebuilds(make: MakeDenoiser) -> None:
    """The registry builds the same denoiser from `config()`, which is JSON; a key it lacks is an error."""
    denoiser = make()
    again = rebuilt(denoiser, 0)
    require(type(again) is type(denoiser), f"otype {denoiser.otype!r} builds {type(again).__name__}")
    require(again.config() == denoiser.config(), f"{denoiser.config()} came back as {again.config()}")
    try:
        build("denoiser", {**denoiser.config(), "no_such_key": 1}, layout=denoiser.layout)
    except ConfigError:
        return
    raise AssertionError("an unknown key passes")


def one_seed_one_denoiser(make: MakeDenoiser) -> None:
    """A generator gives the same parameters each time, and others than another seed; torch's own is not touched."""
    state = torch.get_rng_state()
    one, same, other = (rebuilt(make(), seed).state_dict() for seed in (1, 1, 2))
    require(torch.equal(state, torch.get_rng_state()), "torch's global generator was drawn from")
    for name, tensor in one.items():
        require(torch.equal(tensor, same[name]), f"{name} differs between two of one seed")
    require(any(not torch.equal(tensor, other[name]) for name, tensor in one.items()), "two seeds give one denoiser")


def denoiser_builds_on_meta(make: MakeDenoiser) -> None:
    """On the meta device it is built without memory, with parameters of the same names and shapes."""
    require_meta(make(), "denoiser")


def every_parameter_learns(make: MakeDenoiser) -> None:
    """Every parameter has a finite gradient once the denoiser is away from where it began."""
    denoiser = trained(make())
    x, t = vectors(denoiser, 8), torch.arange(1, 9)
    labels = torch.arange(8) % (denoiser.n_classes + 1) - 1 if denoiser.n_classes else None
    denoiser(x, t, labels).square().sum().backward()
    for name, parameter in denoiser.named_parameters():
        require(parameter.grad is not None, f"{name} has no gradient")
        assert parameter.grad is not None
        require(bool(torch.isfinite(parameter.grad).all()), f"the gradient of {name} is not finite")
        require(bool((parameter.grad != 0).any()), f"the gradient of {name} is 0")


def bad_vectors_are_refused(make: MakeDenoiser) -> None:
    """Vectors of another length are refused with a ValueError."""
    denoiser = make()
    try:
        denoiser(torch.zeros(2, denoiser.layout.n_parameters + 1), torch.ones(2, dtype=torch.int64))
    except ValueError:
        return
    raise AssertionError("a vector that is one number too long passes")


DENOISER_CHECKS: tuple[Callable[[MakeDenoiser], None], ...] = (
    any_batch,
    steps_are_told_apart,
    labels_are_told_apart,
    denoiser_config_rebuilds,
    one_seed_one_denoiser,
    denoiser_builds_on_meta,
    every_parameter_learns,
    bad_vectors_are_refused,
)


# --------------------------------------------------------------------------------------------------- generators


def samples_are_vectors(make: MakeGenerator) -> None:
    """0, 1 and 40 samples are (n, n_parameters) finite numbers, also where there are more than training fields."""
    model = fitted(make())
    for n in (0, 1, 40):
        drawn = model.sample(n, generator=seeded(1))
        require(drawn.shape == (n, model.layout.n_parameters), f"{n} samples have the shape {list(drawn.shape)}")
        require(bool(torch.isfinite(drawn).all()), f"of {n} samples some are not finite")


def one_seed_one_sample(make: MakeGenerator) -> None:
    """A generator gives the same samples each time, and others than another seed; torch's own is not touched."""
    model = fitted(make())
    state = torch.get_rng_state()
    one, same, other = (model.sample(6, generator=seeded(seed)) for seed in (1, 1, 2))
    require(torch.equal(state, torch.get_rng_state()), "torch's global generator was drawn from")
    require(torch.equal(one, same), "one seed gives two sets of samples")
    require(not torch.equal(one, other), "two seeds give one set of samples")


def generator_config_rebuilds(make: MakeGenerator) -> None:
    """The registry builds the same generator from `config()`, which is JSON."""
    model = make()
    again = rebuilt(model, 0)
    require(type(again) is type(model), f"otype {model.otype!r} builds {type(again).__name__}")
    require(again.config() == model.config(), f"{model.config()} came back as {again.config()}")


def files_keep_all(make: MakeGenerator) -> None:
    """Written to a file and read, it makes the same samples."""
    from fieldforge.fields.weightspace.model_file import load_model, save_model

    model = fitted(make())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.gen"
        save_model(path, model)
        again = load_model(path).model
    expected = model.sample(6, generator=seeded(1))
    require(torch.equal(again.sample(6, generator=seeded(1)), expected), "what was loaded makes other samples")


def generator_builds_on_meta(make: MakeGenerator) -> None:
    """On the meta device it is built without memory, with a state of the same names and shapes."""
    require_meta(make(), "generator")


def bad_training_sets_are_refused(make: MakeGenerator) -> None:
    """No fields, vectors of another length, and numbers that are not finite are refused; the message names vectors."""
    model = make()
    n = model.layout.n_parameters
    broken = torch.randn(N_FIELDS, n, generator=seeded(3))
    broken[5, 0] = torch.nan
    for wrong in (torch.zeros(0, n), torch.zeros(N_FIELDS, n + 1), broken):
        try:
            model.fit(wrong)
        except ValueError as error:
            require(str(error).startswith("vectors"), f"{error!r} does not begin with 'vectors'")
        else:
            raise AssertionError(f"a training set of shape {list(wrong.shape)} passes")


GENERATOR_CHECKS: tuple[Callable[[MakeGenerator], None], ...] = (
    samples_are_vectors,
    one_seed_one_sample,
    generator_config_rebuilds,
    files_keep_all,
    generator_builds_on_meta,
    bad_training_sets_are_refused,
)


# ------------------------------------------------------------------------------------------------------ helpers


def trained(part: Any) -> Any:
    """With every parameter moved a little, as the last layer of many a denoiser begins at 0."""
    generator = seeded(5)
    with torch.no_grad():
        for parameter in part.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return part


def fitted(model: Generator) -> Generator:
    """To 24 normal vectors, with whatever else it learns moved a little."""
    model.fit(torch.randn(N_FIELDS, model.layout.n_parameters, generator=seeded(3)))
    found: Generator = trained(model)
    return found


def vectors(denoiser: Denoiser, n: int) -> Tensor:
    """(n, n_parameters) normal numbers that are the same every time."""
    return torch.randn(n, denoiser.layout.n_parameters, generator=seeded(7))


def rebuilt(part: Any, seed: int | None) -> Any:
    """Another one of the same configuration, which goes through JSON, with the numbers of a seed (None: none)."""
    from fieldforge.fields.weightspace.denoisers.base import Denoiser

    config = json.loads(json.dumps(part.config()))
    generator = None if seed is None else seeded(seed)
    return build("denoiser" if isinstance(part, Denoiser) else "generator", config, layout=part.layout,
                 generator=generator)  # fmt: skip


def require_meta(part: nn.Module, what: str) -> None:
    """Built on the meta device, nothing is allocated or drawn, and shapes are the same."""
    state = torch.get_rng_state()
    with torch.device("meta"):
        sketch = rebuilt(part, None)
    require(torch.equal(state, torch.get_rng_state()), f"random numbers were drawn for a {what} on the meta device")
    real = [name for name, tensor in sketch.state_dict().items() if not tensor.is_meta]
    require(not real, f"allocated outside the default device: {', '.join(real)}")
    shapes = [{name: tuple(tensor.shape) for name, tensor in one.state_dict().items()} for one in (sketch, part)]
    require(shapes[0] == shapes[1], "the state has other shapes on the meta device")


def seeded(seed: int) -> torch.Generator:
    """A CPU generator."""
    return torch.Generator("cpu").manual_seed(seed)
