"""What is timed on a device: encoding, network, both, a picture, a scene; by whom, and how much work it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from fieldforge import backends
from fieldforge.apps.bench.gpu.clock import Work
from fieldforge.apps.fit.image.job import ImageJob, step_of
from fieldforge.apps.fit.loop import Step
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.recipe import Config
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.images import Picture
from fieldforge.apps.render.radiance import Eye
from fieldforge.backends import BackendError, made_by, use_backend
from fieldforge.devices import device_of, home, move, seeded
from fieldforge.encodings.grid import Grid
from fieldforge.fields import fused
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.networks.mlp import MLP
from fieldforge.registry import build
from fieldforge.renderers.cameras.paths import orbit


@dataclass(frozen=True)
class Sizes:
    """How large the work is; the first are the issue's, the others for a try."""

    n_network: int = 2**20
    n_encoding: int = 2**20
    n_step: int = 2**18
    log2_hashmap_size: int = 19
    n_levels: int = 16
    side: int = 2048
    picture: int = 400
    copied: int = 2**28
    matrix: int = 8192
    n_correct: int = 2**14


SMALL = Sizes(64, 64, 64, 8, 2, 16, 6, 2**10, 16, 32)


@dataclass
class Candidate:
    """Who does the work, and under what.

    Args:
        name: eager, compile, fieldforge, tinycudann or nerfacc.
        work: once.
        enter: contexts that hold while it is timed.
    """

    name: str
    work: Work
    enter: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Case:
    """Something to time.

    Args:
        name: of the case.
        rows: points, pixels or rays of one repetition.
        candidates: made when they are asked for, so that only one has memory at a time.
        flops: multiplications and additions of matrices in one repetition; 0: none to speak of.
        n_bytes: that have to be read and written, whoever does it; 0: unknown.
    """

    name: str
    rows: int
    candidates: Callable[[], Iterator[Candidate]]
    flops: float = 0.0
    n_bytes: float = 0.0


def cases(sizes: Sizes, compile_: Callable[[Any], Any] | None = torch.compile) -> Iterator[Case]:
    """All that is timed, on the device where tensors are made."""
    yield _encoding(sizes, compile_)
    for width, n_hidden in ((64, 5), (128, 5)):
        for trains in (False, True):
            yield _network(sizes, width, n_hidden, trains, compile_)
    for is_half in (False, True):
        yield _encoded(sizes, is_half, compile_)
    yield _picture(sizes)
    yield _render(sizes)


def _trained(module: nn.Module, ask: Callable[[Tensor], Tensor], x: Tensor) -> Work:
    """Forward and backward, gradients thrown away."""

    def work() -> None:
        for parameter in module.parameters():
            parameter.grad = None
        ask(x).square().mean().backward()

    return work


def _asked(ask: Callable[[Tensor], Tensor], x: Tensor) -> Work:
    @torch.no_grad()
    def work() -> Tensor:
        return ask(x)

    return work


def _everyone(
    operation: str, work_of: Callable[[Callable[[Any], Any] | None], Work], compile_: Callable[[Any], Any] | None
) -> Iterator[Candidate]:
    """What fieldforge takes, each guest, and eager and compiled PyTorch."""
    yield from _makers(operation, work_of(None))
    yield Candidate("eager", work_of(None), [use_backend("reference")])
    if compile_ is not None:
        yield Candidate("compile", work_of(compile_), [use_backend("reference")])


def _makers(operation: str, work: Work, *beside: str) -> Iterator[Candidate]:
    """Whoever makes an operation, alone; one that is missing says why when it is asked."""
    for maker in backends.makers(operation, "cuda"):
        why = backends.why_missing(operation, "cuda", maker)
        contexts = [made_by(operation, maker, alone=True), *(made_by(other, maker) for other in beside)]
        yield Candidate(maker or "fieldforge", work if why is None else _refusal(why), contexts)


def _refusal(why: str) -> Work:
    def refuse() -> None:
        raise BackendError(why)

    return refuse


def _grid(sizes: Sizes) -> Grid:
    made = Grid(3, n_levels=sizes.n_levels, log2_hashmap_size=sizes.log2_hashmap_size, per_level_scale=1.447,
                generator=torch.Generator("cpu").manual_seed(0))  # fmt: skip
    return move(made, torch.empty(0).device)


def _mlp(n_in: int, n_out: int, width: int, n_hidden: int) -> MLP:
    made = MLP(n_in, n_out, n_neurons=width, n_hidden_layers=n_hidden, generator=torch.Generator("cpu").manual_seed(0))
    return move(made, torch.empty(0).device)


def _encoding(sizes: Sizes, compile_: Callable[[Any], Any] | None) -> Case:
    def candidates() -> Iterator[Candidate]:
        grid = _grid(sizes)
        x = torch.rand(sizes.n_encoding, 3, generator=seeded(0))

        def work_of(wrap: Callable[[Any], Any] | None) -> Work:
            return _trained(grid, wrap(grid) if wrap else grid, x)

        yield from _everyone("grid", work_of, compile_)

    moved = sizes.n_encoding * (12 + sizes.n_levels * 2 * 4 * (8 + 1) * 2)  # corners read, features, and back again
    return Case("hash grid, forward and backward", sizes.n_encoding, candidates, 0.0, moved)


def _network(sizes: Sizes, width: int, n_hidden: int, trains: bool, compile_: Callable[[Any], Any] | None) -> Case:
    def candidates() -> Iterator[Candidate]:
        network = _mlp(width, 16, width, n_hidden)
        x = torch.rand(sizes.n_network, width, generator=seeded(0))

        def work_of(wrap: Callable[[Any], Any] | None) -> Work:
            ask = wrap(network) if wrap else network
            return _trained(network, ask, x) if trains else _asked(ask, x)

        yield Candidate("eager float32", work_of(None), [use_backend("reference")])
        for one in _everyone("field", work_of, compile_):
            yield Candidate(one.name, one.work, [*one.enter, _half(x)])

    weights = width * width * n_hidden + width * 16
    passes = 3 if trains else 1
    name = f"MLP {width}x{n_hidden}, {'training' if trains else 'inference'}, half precision"
    return Case(name, sizes.n_network, candidates, 2.0 * weights * passes * sizes.n_network,
                2.0 * sizes.n_network * (width + 16) * passes)  # fmt: skip


def _encoded(sizes: Sizes, is_half: bool, compile_: Callable[[Any], Any] | None) -> Case:
    def candidates() -> Iterator[Candidate]:
        grid, x = _grid(sizes), torch.rand(sizes.n_step, 3, generator=seeded(0))
        network = _mlp(grid.n_output_dims, 4, 64, 2)
        both = nn.ModuleList([grid, network])

        def ask(x: Tensor) -> Tensor:
            return fused.apply(grid, network, x)

        for one in _everyone("field", lambda wrap: _trained(both, wrap(ask) if wrap else ask, x), compile_):
            yield Candidate(one.name, one.work, [*one.enter, *([_half(x)] if is_half else [])])

    weights = 2 * sizes.n_levels * 64 + 64 * 64 + 64 * 4
    name = f"hash grid and MLP 64x2, forward and backward{', half precision' if is_half else ''}"
    return Case(name, sizes.n_step, candidates, 6.0 * weights * sizes.n_step)


def _half(x: Tensor) -> Any:
    return torch.autocast(x.device.type, dtype=torch.float16 if x.is_cuda else torch.bfloat16)


def _picture(sizes: Sizes) -> Case:
    """Steps of a fit to a picture of noise and ramps, as `fieldforge fit image` makes them."""
    config: Config = {
        "encoding": {"otype": "HashGrid", "n_levels": sizes.n_levels, "log2_hashmap_size": sizes.log2_hashmap_size},
        "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2}, "loss": {"otype": "L2"},
        "optimizer": {"otype": "Adam", "learning_rate": 0.01},
        "fit": FitOptions(n_steps=1000, batch_size=sizes.n_step, jitter=0.0).config(),
    }  # fmt: skip

    def candidates() -> Iterator[Candidate]:
        device = torch.empty(0).device
        with torch.device("cpu"):
            ramp = torch.linspace(0, 1, sizes.side).expand(sizes.side, -1)
            noise = torch.rand(sizes.side, sizes.side, generator=torch.Generator().manual_seed(0))
            pixels = (torch.stack([ramp, ramp.T, noise], -1) * 255).to(torch.uint8)
            job = ImageJob(Picture.from_array(home(pixels)))
        for name, contexts in (("fieldforge", list[Any]()), ("eager", [use_backend("reference")])):
            with torch.device("cpu"):
                made = job.make_field(config, 0)
            advance = step_of(
                move(made, device), config, PixelDraw(job.picture, FitOptions.of(config["fit"]), 0)
            ).advance
            counter = iter(range(10**9))
            yield Candidate(name, _next_step(advance, counter), contexts)

    return Case("image fit, a step", sizes.n_step, candidates)


def _next_step(advance: Step, counter: Iterator[int]) -> Work:
    return lambda: advance(next(counter), 1.0)


def _render(sizes: Sizes) -> Case:
    """One picture of a scene: a ball of fog that no training made, in occupied cells."""

    def candidates() -> Iterator[Candidate]:
        device = torch.empty(0).device
        with torch.device("cpu"):
            field: RadianceField = build("field", {
                "otype": "RadianceField", "encoding": {"otype": "HashGrid", "n_levels": sizes.n_levels,
                "log2_hashmap_size": sizes.log2_hashmap_size, "per_level_scale": 1.447},
                "network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 1},
                "rgb_network": {"otype": "MLP", "n_neurons": 64, "n_hidden_layers": 2, "output_activation": "Sigmoid"},
                "density_scale": 20.0, "occupancy": 64,
            }, generator=torch.Generator().manual_seed(0))  # fmt: skip
            cameras = orbit(torch.zeros(3), distance=3.0, up=torch.tensor([0.0, 0.0, 1.0]), elevation=20, n_frames=1,
                            width=sizes.picture, height=sizes.picture, focal=1.2 * sizes.picture)  # fmt: skip
        field = move(field, device)
        origins, directions = (rays.contiguous() for rays in cameras.to(device).picture_rays(0))
        eye = Eye(field, step=2 * 3**0.5 / 512)
        assert device_of(field) == origins.device
        yield from _makers("march", lambda: eye(origins, directions), "composite", "segmented_scan")
        yield Candidate("eager", lambda: eye(origins, directions), [use_backend("reference")])

    return Case(f"render {sizes.picture}x{sizes.picture}", sizes.picture**2, candidates)


def ceilings(sizes: Sizes) -> tuple[tuple[Work, float], tuple[Work, float]]:
    """Work and how much it is: bytes of a copy, read and written, and flops of a product of half-precision matrices."""
    source = torch.empty(sizes.copied, dtype=torch.float32)
    target = torch.empty_like(source)
    matrix = torch.rand(sizes.matrix, sizes.matrix, generator=seeded(0)).to(
        torch.float16 if source.is_cuda else torch.float32
    )
    return (lambda: target.copy_(source), 8.0 * sizes.copied), (lambda: matrix @ matrix, 2.0 * sizes.matrix**3)


def timed(candidate: Candidate) -> ExitStack:
    """The contexts of a candidate, entered."""
    stack = ExitStack()
    for context in candidate.enter:
        stack.enter_context(context)
    return stack
