"""Radiance fields for the native renderer, and for the plain one."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from fieldforge.apps.render.remembered import remembered
from fieldforge.backends import offer, provide
from fieldforge.checks import expect_choice, with_article
from fieldforge.devices import device_of, seeded
from fieldforge.encodings.grid import Grid
from fieldforge.fields import fused
from fieldforge.fields.cost import cost_of
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.fields.networks.mlp import MLP
from fieldforge.fields.space import Box, Contraction
from fieldforge.kernels import cpu_door, cpu_ops
from fieldforge.kernels.cpu_radiance import RadianceRenderer, RadianceShape, Sights
from fieldforge.kernels.cpu_training import Moved
from fieldforge.renderers import volume
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.passes import render_in_passes


def shape_of(field: RadianceField) -> RadianceShape | str:
    """What the native renderer needs to know of a field, or why it cannot render it."""
    if field.rgb_encoding is not None:
        return "it has no second encoding of places, and the field has one for colour"
    if field.density_shift:
        return "it does not shift the number that becomes the density"
    if not isinstance(field.encoding, Grid):
        return f"it needs a grid, and the encoding is a {field.encoding.otype}"
    found = fused.shapes(field.encoding, field.network)
    if isinstance(found, str):
        return found
    grid, density = found
    color = cpu_ops.describe_mlp(field.rgb_network) if type(field.rgb_network) is MLP else "it needs an MLP"
    if isinstance(color, str):
        return color
    if any(one.dtype != torch.float32 for one in field.parameters()):
        return "it is in float32 only"
    assert isinstance(grid, cpu_ops.GridShape)
    if not isinstance(field.space, (Box, Contraction)):
        return f"it is not for the space {field.space.otype}"
    low, high = field.low, field.high
    return RadianceShape(
        grid, density, color, (low[0], low[1], low[2]), (high[0] - low[0], high[1] - low[1], high[2] - low[2]),
        field.density_scale / field.longest_side, field.density_activation,
        field.space.norm if isinstance(field.space, Contraction) else "",
    )  # fmt: skip


def parts_of(field: RadianceField) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """The table, and the parameters of both networks, in the native renderer's order."""
    assert isinstance(field.encoding, Grid)
    networks = [
        [*weights, *biases]
        for weights, biases in map(cpu_ops.parameters_of, (field.network, field.rgb_network))
    ]  # fmt: skip
    return field.encoding.table, networks[0], networks[1]


def native_renderer(field: RadianceField, moved: Sequence[Moved] | None = None) -> RadianceRenderer | str:
    """The native renderer of a field, or why there is none; with `moved` it also trains."""
    device = next(field.parameters()).device
    if device.type != "cpu":
        return f"the field is on {device}"
    if offer("radiance", device, field=field) is None:
        found = cpu_door.missing() or shape_of(field)
        return found if isinstance(found, str) else "another backend was asked for"
    shape = shape_of(field)
    assert not isinstance(shape, str), shape
    return RadianceRenderer(shape, *parts_of(field), moved=moved)


def _refuses(*, field: RadianceField) -> str | None:
    found = shape_of(field)
    return found if isinstance(found, str) else None


@provide("radiance", "reference")
def _plain(field: RadianceField) -> None:
    """`fieldforge.renderers.volume.render` defines it."""


provide("radiance", "cpu", missing=cpu_door.missing, refuses=_refuses, note=cpu_door.description)(native_renderer)


def new_grid(field: RadianceField, resolution: int) -> OccupancyGrid:
    """A grid for a field, every cell of it occupied."""
    return OccupancyGrid(*field.innermost, resolution, field.n_cascades)


def cone_angle_for(n_cascades: int) -> float:
    """Growth of the samples with their distance: none in one box, four times Instant-NGP's in cascades.

    With its 1/256 a ray of an unbounded scene has several times the samples, and a step as many times fewer rays.
    """
    return 0.0 if n_cascades == 1 else 1 / 64


def occupancy_of(field: RadianceField) -> OccupancyGrid:
    """The grid that a field remembers; where it remembers none, one that is looked for anew."""
    if field.occupancy:
        grid = new_grid(field, field.occupancy)
        grid.load_state_dict({"density": grid.density, "bricks": field.bricks})
        return grid
    grid = new_grid(field, 128)
    generator = seeded(0)
    for _ in range(16 if field.has_time else 2):
        grid.update(density_of(field, generator), 0, generator=generator)
    return grid


def density_of(field: RadianceField, generator: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Density of places alone, for an occupancy grid: of a field that has time, each at a random one.

    So a cell is occupied that ever held anything of late: the grid of a scene that moves is a union over times.
    """
    if not field.has_time:
        return field.density
    return lambda points: field.density(points, torch.rand(len(points), generator=generator))


def asked_along(
    field: RadianceField, times: Tensor | None = None, photos: Tensor | None = None, along: Tensor | None = None
) -> tuple[volume.Radiance, volume.Density]:
    """What `volume.render` asks with ``tell_rays``, of R rays with their times and photos, (R,) each or None.

    `along`, the directions (R, 3) of the rays, spares a field with cells to read them again at every sample.
    """
    if field.partition is not None and along is not None and times is None:
        code = field.code(along, photos)
        return (
            lambda points, directions, rays: field.radiance_along(points, code, rays),
            lambda points, rays: field.density(points),
        )  # fmt: skip

    def of(rows: Tensor | None, rays: Tensor) -> Tensor | None:
        return None if rows is None else rows[rays]

    def radiance(points: Tensor, directions: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        return field.radiance(points, directions, of(times, rays), of(photos, rays))

    def density(points: Tensor, rays: Tensor) -> Tensor:
        return field.density(points, of(times, rays))

    return radiance, density


ENGINES = ("auto", "dense", "occupied", "passes")
"""How the rays of a RadianceField are looked along: "dense", every sample in the box in full, as NeRF was written;
"occupied", samples in occupied cells, those that light reaches in full, natively where it can be; "passes", samples in
occupied cells, a few at a time, until a ray ends, which suits fields of many small networks (KiloNeRF)."""


class SceneEye(ABC):
    """Looks at the field of a scene along rays.

    Attributes:
        background: (3,) what stands behind everything.
        engine: the way it looks, one of `ENGINES`, or "own".
        n_rays_at_once: how many suit it.
        has_time: whether it takes a time for each ray, (R,) from 0 to 1, as a third argument.
        time: when it looks where it is told none.
    """

    background: Tensor
    engine: str = "own"
    n_rays_at_once: int = 2**13
    has_time: bool = False
    time: float = 0.0

    @abstractmethod
    def __call__(self, origins: Tensor, directions: Tensor) -> volume.Seen:
        """What is seen along (R, 3) rays, without gradients."""

    def multiply_adds(self, seen: volume.Seen) -> int | None:
        """What a look took in the matrices of networks; None where nobody counts."""
        return None


def eye_of(field: SceneField, metadata: Mapping[str, Any], engine: str = "auto") -> SceneEye:
    """That looks at a field from a file as its training did, whose samples its header remembers.

    Args:
        field: from the file.
        metadata: of the file.
        engine: one of `ENGINES`; "auto" is "passes" for a field with a partition and "occupied" for others.

    Raises:
        TypeError: nobody knows how to look at such a field; `EYES` lists whom somebody does.
        ValueError: no such engine, or it is asked for by name of a field that has its own way.
    """
    expect_choice("engine", engine, ENGINES)
    if engine != "auto":
        if not isinstance(field, RadianceField):
            raise ValueError(f"engine: {with_article(field.otype)} is looked at in its own way; give auto")
        return occupancy_eye(field, metadata, engine)
    # these enter their eyes in the table, and need what is here
    import fieldforge.apps.render.inside_outside
    import fieldforge.apps.render.ndc
    import fieldforge.apps.render.proposals  # noqa: F401

    for kind, make in EYES.items():
        if isinstance(field, kind):
            return make(field, metadata)
    raise TypeError(f"field: no eye for a {field.otype}; there are eyes for {', '.join(kind.otype for kind in EYES)}")


def background_of(field: SceneField) -> Tensor:
    """(3,) the field's own, or black."""
    return torch.tensor(field.background or (0.0, 0.0, 0.0))


class Eye(SceneEye):
    """Looks at a field along rays, natively where it can be.

    Args:
        field: what is seen.
        grid: where something is; None asks the field.
        step: length of a sample; None is 1/512 of the diagonal of the box, or of its smallest cascade.
        cone_angle: length of a sample over its distance, where that is more; None is `cone_angle_for` the cascades.
        near: where rays begin, world length from the camera.
        background: (3,) behind everything; None is the field's own, or black.
        early_stop: least transmittance in front of a sample that is evaluated.
        time: when, of a field that has time, where a ray is not told its own.
        engine: one of `ENGINES`.
    """

    def __init__(
        self,
        field: RadianceField,
        grid: OccupancyGrid | None = None,
        *,
        step: float | None = None,
        cone_angle: float | None = None,
        near: float = 0.0,
        background: Tensor | None = None,
        early_stop: float = 1e-4,
        time: float = 0.0,
        engine: str = "auto",
    ) -> None:
        self.field, self.early_stop, self.has_time, self.time = field, early_stop, field.has_time, time
        self.engine = expect_choice("engine", engine, ENGINES)
        if self.engine == "auto":
            self.engine = "occupied" if field.partition is None else "passes"
        if self.engine == "dense":
            grid, self.early_stop = new_grid(field, field.occupancy or 4), 0.0
            self.n_rays_at_once = 2**8  # hundreds of samples each: what a large network makes of more leaves the caches
        self.n_points_at_once = 2**18
        if device_of(field).type != "cpu":  # many small calls are what a GPU waits for
            self.n_rays_at_once, self.n_points_at_once = (2**13 if self.engine == "dense" else 2**17), 2**19
        if self.engine == "passes" and field.partition is not None:
            self.n_rays_at_once = max(2**14, self.n_rays_at_once)  # the more points, the more each network has
        self.grid = occupancy_of(field) if grid is None else grid
        self.step = math.dist(*field.innermost) / 512 if step is None else step
        self.cone_angle = cone_angle_for(field.n_cascades) if cone_angle is None else cone_angle
        self.near = near
        self.background = background_of(field) if background is None else background
        self._is_own_background = background is None
        renderer = native_renderer(field)
        self.renderer = None if isinstance(renderer, str) else renderer

    @torch.no_grad()
    def __call__(self, origins: Tensor, directions: Tensor, times: Tensor | None = None) -> volume.Seen:
        field = self.field
        if times is None and field.has_time:
            times = torch.full((len(origins),), self.time)
        is_own = self._is_own_background
        background = field.behind(directions) if is_own else self.background.expand(len(origins), 3)
        if self.engine == "passes":
            return render_in_passes(
                origins, directions, self._radiance(directions, times), self.grid, step=self.step,
                cone_angle=self.cone_angle, near=self.near, background=background, early_stop=self.early_stop,
                tell_rays=True,
            )  # fmt: skip
        if self.renderer is None:
            radiance, density = asked_along(field, times)
            return volume.render(
                origins, directions, radiance, self.grid, density=density, step=self.step, cone_angle=self.cone_angle,
                near=self.near, background=background, early_stop=self.early_stop, tell_rays=True,
                n_points_at_once=self.n_points_at_once,
            )  # fmt: skip
        samples = march(origins, directions, self.grid, step=self.step, cone_angle=self.cone_angle, near=self.near)
        fourth = None if times is None else field.duration * times
        seen = self.renderer.render(
            Sights(samples, origins, directions, field.code(directions), background, self.early_stop, fourth)
        )
        distance = torch.where(seen.opacity > 0, seen.depth / seen.opacity, math.inf)
        return volume.Seen(seen.color, distance, seen.opacity, samples.n_samples, seen.n_evaluated)

    def _radiance(self, directions: Tensor, times: Tensor | None) -> volume.Radiance:
        """What is asked of points in passes; the codes of rays are made once."""
        if self.field.partition is None or times is not None:
            return asked_along(self.field, times)[0]
        code = self.field.code(directions)
        return lambda points, along, rays: self.field.radiance_along(points, code, rays)

    def multiply_adds(self, seen: volume.Seen) -> int | None:
        """All samples in full that were evaluated; and the density of all that were marched, where that came first."""
        cost = cost_of(self.field)
        if cost is None:
            return None
        in_full = seen.n_evaluated * (cost.density + cost.color)
        if self.engine == "passes" or (self.early_stop == 0 and self.renderer is None):
            return in_full
        alone = cost.density
        if self.renderer is not None:  # it asks for the first number alone
            n_in, n_out = self.renderer.shape.density.widths[-2:]
            alone -= n_in * (n_out - 1)
        return in_full + seen.n_marched * alone


def occupancy_eye(field: RadianceField, metadata: Mapping[str, Any], engine: str = "auto") -> Eye:
    """That looks at a field through its occupied cells, with the samples that its file's header remembers."""
    across = remembered(metadata, "run.fit.samples_across", 512, least=1, most=4096)
    early_stop = remembered(metadata, "run.fit.early_stop", 1e-4, least=0, most=0.5)
    cone_angle = remembered(metadata, "run.fit.cone_angle", cone_angle_for(field.n_cascades), least=0, most=1)
    near = remembered(metadata, "run.fit.near", 0.0, least=0, most=1e15)
    step = math.dist(*field.innermost) / across
    return Eye(field, step=step, cone_angle=cone_angle, near=near, early_stop=early_stop, engine=engine)


EYES: dict[type[SceneField], Callable[[Any, Mapping[str, Any]], SceneEye]] = {RadianceField: occupancy_eye}
"""Kind of field -> (field, metadata of its file) -> its eye."""
