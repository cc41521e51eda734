"""RadianceField: what absorbs and what shines at each place of a box (Mildenhall et al. 2020).

    {"otype": "RadianceField", "low": [-1.5, -1.5, -1.5], "high": [1.5, 1.5, 1.5],
     "encoding": {"otype": "HashGrid"}, "network": {"otype": "MLP"},
     "dir_encoding": {"otype": "SphericalHarmonics", "degree": 4},
     "rgb_network": {"otype": "MLP", "output_activation": "Sigmoid"}}

The names and the flow are instant-ngp's (Müller et al. 2022, section 5.4): network(encoding(place)) gives `n_geometry`
numbers, of which the first becomes the density; all of them and dir_encoding(direction) are what rgb_network turns
into colour. The density is asked for alone, and cheaply, by whoever only wants to know where something is.

Fields of factors and of plain grids keep colour in tables of its own (TensoRF, Chen et al. 2022, section 4.2;
Plenoxels, Fridovich-Keil et al. 2022): "rgb_encoding" is a second encoding of places, which only the colour network
reads, as [geometry, rgb_encoding(place), dir_encoding(direction)].

Three things may belong to a ray besides its direction. Time, in scenes that move: a fourth coordinate of the encoding
(D-NeRF's question, Pumarola et al. 2021, with the plain answer). The photo it comes from: a vector for each photo that
the colour network reads, for exposure and weather (NeRF-W, Martin-Brualla et al. 2021, section 4.1). And what is behind
the box: one colour, or a small network of the direction.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_choice, expect_float, expect_int, expect_points
from fieldforge.devices import constant
from fieldforge.encodings.base import Encoding
from fieldforge.fields.fused import read
from fieldforge.fields.kinds.base import part_of
from fieldforge.fields.kinds.scene import ColorSpace, SceneField
from fieldforge.fields.partitions.base import Partition
from fieldforge.fields.partitions.radiance import in_cells
from fieldforge.fields.partitions.stacks import encode
from fieldforge.fields.space import Space
from fieldforge.registry import register

LARGEST_EXPONENT = 15.0
"""exp is cut here: 3.3 million times what one side of the box would need to be opaque."""


class _TruncatedExp(torch.autograd.Function):
    """exp(min(x, 15)); the slope is the value everywhere, so that nothing gets stuck beyond the cut."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return torch.exp(x.clamp(max=LARGEST_EXPONENT))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (value,) = ctx.saved_tensors
        out: Tensor = grad * value
        return out


def truncated_exp(x: Tensor) -> Tensor:
    """exp(min(x, 15)), with itself as its slope.

    Example:
        >>> truncated_exp(torch.tensor([0.0, 15.0, 1000.0])).log()
        tensor([ 0., 15., 15.])
    """
    value: Tensor = _TruncatedExp.apply(x)
    return value


DENSITIES: dict[str, Callable[[Tensor], Tensor]] = {
    "exponential": truncated_exp,
    "softplus": nn.functional.softplus,
}
"""How the network's first number becomes a density, per side of the box."""


@register("field", "RadianceField")
class RadianceField(SceneField):
    """Density and colour of a scene.

    Args:
        encoding: configuration of the encoding of places (3 coordinates), or an `Encoding`.
        network: configuration of the network behind it, or a module; it has `n_geometry` outputs.
        dir_encoding: configuration of the encoding of directions.
        rgb_network: configuration of the network that gives colours; its output activation keeps them in range.
        rgb_encoding: configuration of a second encoding of places, which the colour network reads between the first
            network's numbers and the code of the direction; None is none.
        low, high: corners of the box, in world units.
        space: what the box stands for (`fieldforge.fields.space`): "Box", all there is; or "Contraction", what is near,
            and the rest of the world is drawn into a shell around it.
        n_geometry: numbers that the colour network reads of a place; the first of them is the density's.
        density_activation: "exponential" (`truncated_exp`) or "softplus"; the density is its value over the longest
            side of the box, so that a network that gives 0 makes a thin fog of any box.
        density_shift: added to the network's first number; TensoRF's -10 makes the box of a fresh field empty.
        density_scale: factor on the density (TensoRF's distance_scale times the box's side), above 0.
        color_space: "srgb", display-encoded colours; or "linear", light.
        background: the colour behind the scene, where one belongs to it; None leaves that to the renderer.
        background_network: configuration of a network from dir_encoding(direction) to the colour behind the scene, or a
            module; None: `background` is all there is.
        duration: 0 for a scene that stands still. Else the encoding has four coordinates, of which the last is time,
            and times from 0 to 1 take this part of its unit length: 1/8 makes the cells of a grid eight times as long
            in time as they are in space.
        appearance: numbers of the vector that each photo has; 0: photos are all alike.
        n_photos: how many photos have one.
        occupancy: cells along each side of the box of a record which of them hold anything, kept in the buffer
            ``bricks`` beside the parameters (64 bits for 4 x 4 x 4 cells, `fieldforge.renderers.occupancy`); 0 is none.
        n_cascades: such records, each of a box twice the size of the one before: around the box of a Contraction, which
            is the smallest; in the space Box the largest is the box.
        partition: cells of the cube that the encodings read, with networks of their own, as for `Field`: every cell has
            an encoding, a network, an rgb_encoding and an rgb_network (KiloNeRF).
        generator: source of the initial parameters; None is torch's own.

    Example:
        >>> network = {"otype": "MLP", "n_neurons": 16, "n_hidden_layers": 1}
        >>> field = RadianceField(encoding="Identity", network=network, rgb_network=network)
        >>> density, color = field.radiance(torch.zeros(5, 3), torch.tensor([0.0, 0.0, 1.0]).expand(5, 3))
        >>> density.shape, color.shape
        (torch.Size([5]), torch.Size([5, 3]))
    """

    otype = "RadianceField"
    outside = "density 0 in the space Box, whose box holds all there is; in a Contraction nothing is outside"

    bricks: Tensor

    def __init__(
        self,
        *,
        encoding: str | Mapping[str, Any] | Encoding,
        network: str | Mapping[str, Any] | nn.Module,
        dir_encoding: str | Mapping[str, Any] | Encoding = "SphericalHarmonics",
        rgb_network: str | Mapping[str, Any] | nn.Module,
        low: Sequence[float] = (-1.0, -1.0, -1.0),
        high: Sequence[float] = (1.0, 1.0, 1.0),
        space: str | Mapping[str, Any] | Space = "Box",
        n_geometry: int = 16,
        rgb_encoding: str | Mapping[str, Any] | Encoding | None = None,
        density_activation: Literal["exponential", "softplus"] = "exponential",
        density_shift: float = 0.0,
        density_scale: float = 1.0,
        color_space: ColorSpace = "srgb",
        background: Sequence[float] | None = None,
        background_network: str | Mapping[str, Any] | nn.Module | None = None,
        duration: float = 0.0,
        appearance: int = 0,
        n_photos: int = 0,
        occupancy: int = 0,
        n_cascades: int = 1,
        partition: str | Mapping[str, Any] | Partition | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        n_geometry = expect_int("n_geometry", n_geometry, 1, 256)
        duration = expect_float("duration", duration, 0.0, 1.0)
        super().__init__(
            low=low, high=high, color_space=color_space, background=background, has_time=duration > 0,
            encoding=encoding, network=network, n_output_dims=n_geometry, partition=partition, generator=generator,
        )  # fmt: skip
        self.duration = duration
        self.appearance = expect_int("appearance", appearance, 0, 256)
        self.n_photos = expect_int("n_photos", n_photos, *((1, 2**20) if appearance else (0, 0)))
        self.dir_encoding: Encoding = part_of(
            "dir_encoding", dir_encoding, Encoding, n_input_dims=3, generator=generator, kind="encoding"
        )
        self.rgb_encoding: Encoding | None = None
        n_colors = n_geometry + self.dir_encoding.n_output_dims + self.appearance
        if rgb_encoding is not None:
            self.rgb_encoding = self.part_of(
                "rgb_encoding",
                rgb_encoding,
                Encoding,
                n_input_dims=self.n_input_dims,
                generator=generator,
                kind="encoding",
            )
            n_colors += self.rgb_encoding.n_output_dims
        sizes: dict[str, Any] = {"n_input_dims": n_colors, "n_output_dims": 3, "n_coordinates": 3}  # directions
        self.rgb_network: nn.Module = self.part_of(
            "rgb_network", rgb_network, nn.Module, **sizes, generator=generator, kind="network"
        )
        if self.appearance:
            vectors = torch.empty(self.n_photos, self.appearance)
            self.photo_vectors = nn.Parameter(vectors.normal_(0, 0.1, generator=generator))
        self.background_network: nn.Module | None = None
        if background_network is not None:
            sizes = {"n_input_dims": self.dir_encoding.n_output_dims, "n_output_dims": 3, "n_coordinates": 3}
            self.background_network = part_of(
                "background_network", background_network, nn.Module, **sizes, generator=generator, kind="network"
            )
        self.space: Space = part_of("space", space, Space)
        self.n_geometry = n_geometry
        self.density_activation = expect_choice("density_activation", density_activation, DENSITIES)
        self.density_shift = expect_float("density_shift", density_shift, -1e6, 1e6)
        self.density_scale = expect_float("density_scale", density_scale, 0.0, 1e6, open_low=True)
        self.occupancy = expect_int("occupancy", occupancy, 0, 4096)
        self.n_cascades = expect_int("n_cascades", n_cascades, 1, 16)
        if occupancy:
            n = -(-self.occupancy // 4)
            self.register_buffer("bricks", torch.full((self.n_cascades, n, n, n), -1, dtype=torch.int64))

    @property
    def innermost(self) -> tuple[list[float], list[float]]:
        """Corners of the smallest of the cascades, in world units."""
        if not self.space.is_bounded or self.n_cascades == 1:
            return self.low, self.high
        share = 0.5**self.n_cascades
        ends = [((a + b) / 2, share * (b - a)) for a, b in zip(self.low, self.high, strict=True)]
        return [middle - half for middle, half in ends], [middle + half for middle, half in ends]

    @property
    def of_rays(self) -> list[nn.Parameter]:
        """The parameters that say something of rays, not of places: vectors of photos, and what is behind the box."""
        behind = [] if self.background_network is None else list(self.background_network.parameters())
        return [self.photo_vectors, *behind] if self.appearance else behind

    def geometry(self, points: Tensor, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """What the first network says, (*batch, n_geometry), and whether the point is in the space, (*batch,)."""
        unit, is_inside = self.place(points, times)
        return self.outputs(unit), is_inside

    def place(self, points: Tensor, times: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Where the encodings are asked, (*batch, 3) in the unit cube, and whether the point is in the space.

        With times (*batch,), (*batch, 4): time is the last coordinate.
        """
        if not self.has_time:
            if times is not None:
                raise ValueError("times: this field stands still (duration is 0) and takes none")
            unit = self.to_unit(points)
            return self.space.to_cube(unit).clamp(0, 1), self.space.holds(unit)
        expect_points(points, 3, name="points", owner=self)
        if times is None or times.shape != points.shape[:-1]:
            got = "none" if times is None else f"{tuple(times.shape)}"
            raise ValueError(f"times: expected one for each point {tuple(points.shape[:-1])}, got {got}")
        unit = self.to_unit(torch.cat([points, times[..., None].to(points)], -1))
        unit, time = unit[..., :3], unit[..., 3:]
        # before its beginning and after its end a scene stands still
        cube = torch.cat([self.space.to_cube(unit), self.duration * time.clamp(0, 1)], -1)
        return cube.clamp(0, 1), self.space.holds(unit)

    def density_of(self, geometry: Tensor, is_inside: Tensor) -> Tensor:
        """(*batch,) density of what `geometry` gives."""
        number = geometry[..., 0] + self.density_shift if self.density_shift else geometry[..., 0]
        inside = DENSITIES[self.density_activation](number) / (self.longest_side / self.density_scale)
        return torch.where(is_inside, inside, 0.0)

    def density(self, points: Tensor, times: Tensor | None = None) -> Tensor:
        """Extinction at places of the world: (*batch, 3) -> (*batch,), 1 / length, at least 0.

        Args:
            points: (*batch, 3) in world units.
            times: (*batch,) from 0 to 1, of a field that `has_time`.
        """
        if self.partition is None:
            return self.density_of(*self.geometry(points, times))
        unit, is_inside = self.place(points, times)
        flat = unit.to(next(self.network.parameters()).dtype).reshape(-1, unit.shape[-1])
        cells = self.partition.sort(flat)
        # the caller's order is restored of what is asked for alone, one number of some thirty
        first = cells.restore(self.network(encode(self.encoding, cells), cells.offsets)[:, :1])
        return self.density_of(first.view(*unit.shape[:-1], 1), is_inside)

    def forward(self, points: Tensor) -> Tensor:
        """The same as `density`; of a field that has time, at (*batch, 4) places and times."""
        expect_points(points, self.n_input_dims, name="points", owner=self)
        return self.density(points[..., :3], points[..., 3]) if self.has_time else self.density(points)

    def code(self, directions: Tensor, photos: Tensor | None = None) -> Tensor:
        """What the colour network reads of a ray, beside what it reads of a place: (*batch, 3) -> (*batch, n).

        Args:
            directions: (*batch, 3) of unit length.
            photos: (*batch,) int64, whose vectors stand at the end; None: the mean of all photos.
        """
        code: Tensor = self.dir_encoding(0.5 * directions + 0.5)
        if not self.appearance:
            return code
        if photos is None:
            vectors = self.photo_vectors.mean(0).expand(*directions.shape[:-1], self.appearance)
        else:
            vectors = nn.functional.embedding(photos, self.photo_vectors)
        return torch.cat([code, vectors.to(code.dtype)], -1)

    def behind(self, directions: Tensor) -> Tensor:
        """The colour behind the box along directions, (*batch, 3) -> (*batch, 3); black where the field has none."""
        if self.background_network is None:
            color = tuple(self.background or (0.0, 0.0, 0.0))
            return constant(color, directions.dtype, directions.device).expand(directions.shape)
        unit = 0.5 * directions + 0.5
        return read(self.background_network, self.dir_encoding(unit), unit)

    def radiance(
        self, points: Tensor, directions: Tensor, times: Tensor | None = None, photos: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Density, and the colour that is seen by who looks along a direction.

        Args:
            points, directions: as for `SceneField.radiance`.
            times: (*batch,) from 0 to 1, of a field that `has_time`.
            photos: (*batch,) int64, of a field with `appearance`: as which photo shows it; None: as their mean does.
        """
        expect_points(directions, 3, name="directions", owner=self)
        if directions.shape != points.shape:
            raise ValueError(f"directions: expected one for each point {tuple(points.shape)}, got {directions.shape}")
        unit, is_inside = self.place(points, times)
        geometry, color = self.geometry_and_color(unit, directions, photos)
        return self.density_of(geometry, is_inside), color

    def geometry_and_color(
        self, unit: Tensor, directions: Tensor, photos: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """What the first network says, and the colours (*batch, 3) along (*batch, 3) directions.

        Args:
            unit: from `place`.
            directions, photos: as for `radiance`.

        Returns:
            (*batch, n_geometry), of a field with a partition the first of them alone, (*batch, 1); and (*batch, 3).
        """
        if self.partition is not None:
            code = self.code(directions.to(next(self.network.parameters()).dtype), photos)
            return self._in_cells(unit, code, None)
        geometry = self.outputs(unit)
        directions = directions.to(geometry.dtype)
        features = [geometry, self.code(directions, photos)]
        if self.rgb_encoding is not None:
            features.insert(1, self.rgb_encoding(unit.to(geometry.dtype)))
        return geometry, read(self.rgb_network, torch.cat(features, -1), 0.5 * directions + 0.5)

    def radiance_along(self, points: Tensor, code: Tensor, rays: Tensor) -> tuple[Tensor, Tensor]:
        """`radiance` of a field with a partition, of many points along few rays.

        Args:
            points: (N, 3) in world units.
            code: (R, n) of the rays, as `code` gives it.
            rays: (N,) int64, the row of `code` of each point.

        Returns:
            (N,) 1 / length, and (N, 3).

        Raises:
            ValueError: the field has no partition, or asks for times.
        """
        if self.partition is None:
            raise ValueError("partition: this field has none; ask radiance()")
        unit, is_inside = self.place(points)
        geometry, color = self._in_cells(unit, code, rays)
        return self.density_of(geometry, is_inside), color

    def _in_cells(self, unit: Tensor, code: Tensor, rays: Tensor | None) -> tuple[Tensor, Tensor]:
        """`geometry_and_color` of a field with a partition, whose points are sorted once for both networks."""
        assert self.partition is not None
        batch, dtype = unit.shape[:-1], next(self.network.parameters()).dtype
        flat, code = unit.to(dtype).reshape(-1, unit.shape[-1]), code.reshape(-1, code.shape[-1])
        found = in_cells(self, self.partition.sort(flat), code, rays).view(*batch, 4)
        return found[..., :1], found[..., 1:]
