"""Many cameras at once: rays of any mixture of views and pixels in one call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_points
from fieldforge.renderers.cameras.lenses import MODELS, land, limit_of, look

_TABLE_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class Cameras:
    """The cameras of a scene: one model, and for each view a pose, a size and intrinsics.

    Args:
        poses: (n, 3, 4) camera axes to world: columns right, up, backward, position.
        intrinsics: (n, 4) fx, fy, cx, cy in pixels; for orthographic fx and fy are pixels per world length.
        sizes: (n, 2) int64 width and height in pixels.
        model: "pinhole", "opencv", "fisheye", "equirectangular" or "orthographic"; see `lenses.py`.
        distortion: (n, 8) k1, k2, p1, p2, k3, k4, k5, k6 for opencv; (n, 4) k1..k4 for fisheye; else (n, 0) or None.

    Computes in the dtype of the poses: float64 round trips to 1e-6 px, float32 is for training. Rays and projections
    are differentiable in poses, intrinsics and distortion (`dataclasses.replace(cameras, poses=refined)`).

    Raises:
        ValueError: shapes that do not go together, an unknown model.
    """

    poses: Tensor
    intrinsics: Tensor
    sizes: Tensor
    model: str = "pinhole"
    distortion: Tensor | None = None

    def __post_init__(self) -> None:
        expect_choice("model", self.model, MODELS)
        n = len(self.poses) if self.poses.ndim else 0
        for name, value, shape in (
            ("poses", self.poses, (n, 3, 4)),
            ("intrinsics", self.intrinsics, (n, 4)),
            ("sizes", self.sizes, (n, 2)),
            ("distortion", self._coefficients, (n, MODELS[self.model])),
        ):
            if tuple(value.shape) != shape:
                raise ValueError(f"{name}: expected {shape} for {n} {self.model} cameras, got {tuple(value.shape)}")
        if self.sizes.dtype != torch.int64:
            raise ValueError(f"sizes: expected int64, got {self.sizes.dtype}")

    def __len__(self) -> int:
        return len(self.poses)

    @property
    def positions(self) -> Tensor:
        """(n, 3) where they stand."""
        return self.poses[:, :, 3]

    @property
    def forwards(self) -> Tensor:
        """(n, 3) along which axis they look."""
        return -self.poses[:, :, 2]

    @property
    def device(self) -> torch.device:
        """Where the poses are."""
        return self.poses.device

    def to(self, *args: Any, **kwargs: Any) -> Cameras:
        """The same cameras on another device or in another floating-point dtype (arguments of Tensor.to)."""
        poses = self.poses.to(*args, **kwargs)
        moved = None if self.distortion is None else self.distortion.to(*args, **kwargs)
        return replace(
            self,
            poses=poses,
            intrinsics=self.intrinsics.to(*args, **kwargs),
            sizes=self.sizes.to(poses.device),
            distortion=moved,
        )

    def select(self, views: Tensor | Sequence[int]) -> Cameras:
        """Only these views, in this order."""
        views = torch.as_tensor(views, dtype=torch.int64, device=self.device)
        chosen = None if self.distortion is None else self.distortion[views]
        return replace(
            self,
            poses=self.poses[views],
            intrinsics=self.intrinsics[views],
            sizes=self.sizes[views],
            distortion=chosen,
        )

    def downscaled(self, factor: int) -> Cameras:
        """For pictures whose pixels are blocks of factor x factor; what is left at the right and below is cut off."""
        sizes = self.sizes // factor
        return replace(self, intrinsics=self.intrinsics / factor, sizes=sizes)

    def rays(self, view: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """Rays of pixels of views.

        Args:
            view: (n_rays,) int64 which camera, or a scalar for one camera.
            pixels: (n_rays, 2) x and y. Integers are pixels and stand for their centres; floats are places in the
                picture, (0, 0) the upper left corner.

        Returns:
            origins and unit directions, (n_rays, 3) each, in world axes. Directions are NaN where the distortion cannot
            be undone (`has_ray`); everywhere else t along the ray is length in world units.
        """
        view, pixels = self._spread(view, pixels)
        inside = self._look(view, pixels)
        pose = self.poses[view]
        origins = pose[:, :, 3]
        if self.model == "orthographic":
            x, y = ((self._places(pixels) - self.intrinsics[view, 2:]) / self.intrinsics[view, :2]).unbind(-1)
            origins = origins + x[:, None] * pose[:, :, 0] - y[:, None] * pose[:, :, 1]
        return origins, torch.einsum("nij,nj->ni", pose[:, :, :3], inside)

    def picture_rays(self, view: int, first_row: int = 0, last_row: int | None = None) -> tuple[Tensor, Tensor]:
        """Rays of the rows [first_row, last_row) of one view, row by row from the top; see `rays`."""
        width, height = self.sizes[view].tolist()
        rows = torch.arange(first_row, height if last_row is None else last_row, device=self.device)
        y, x = torch.meshgrid(rows, torch.arange(width, device=self.device), indexing="ij")
        return self.rays(torch.tensor(view, device=self.device), torch.stack([x.reshape(-1), y.reshape(-1)], -1))

    def project(self, view: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Where points land.

        Args:
            view: (n,) int64 which camera, or a scalar for one camera.
            points: (n, 3) in world axes.

        Returns:
            pixels (n, 2), NaN for a point the model cannot see (behind a pinhole, beyond a fold of the distortion),
            possibly outside the picture; and depth (n,): planar z for pinhole, opencv and orthographic, distance from
            the camera for fisheye and equirectangular.
        """
        view, points = self._spread(view, expect_points(points, 3, name="points"))
        pose = self.poses[view]
        inside = torch.einsum("nji,nj->ni", pose[:, :, :3], points.to(pose.dtype) - pose[:, :, 3])
        return land(
            self.model, inside, self.intrinsics[view], self._coefficients[view], self._limit[view], self._size[view]
        )

    def sees(self, view: Tensor, points: Tensor) -> Tensor:
        """(n,) whether points land inside the picture (nothing is known of what stands in between)."""
        view, points = self._spread(view, points)
        pixels, depth = self.project(view, points)
        inside = (pixels >= 0) & (pixels <= self._size[view])  # NaN is not
        return inside.all(-1) & (depth > 0)

    def has_ray(self, view: Tensor, pixels: Tensor) -> Tensor:
        """(n_rays,) whether a direction reaches the pixel: false beyond a fold of the distortion."""
        return ~self._look(*self._spread(view, pixels)).isnan().any(-1)

    def planar_share(self, view: Tensor, pixels: Tensor) -> Tensor:
        """(n_rays,) the cosine between ray and viewing axis: planar depth = ray length * planar_share."""
        return -self._look(*self._spread(view, pixels))[:, 2]

    # ---- inside

    @cached_property
    def _coefficients(self) -> Tensor:
        return self.poses.new_zeros(len(self.poses), 0) if self.distortion is None else self.distortion

    @cached_property
    def _size(self) -> Tensor:
        return self.sizes.to(self.poses.dtype)

    @cached_property
    def _limit(self) -> Tensor:
        """How far the distortion can be undone, worked out once for each different lens."""
        if not MODELS[self.model] or not len(self):
            return limit_of("pinhole", self._coefficients)
        different, which = torch.unique(self._coefficients.detach(), dim=0, return_inverse=True)
        return limit_of(self.model, different)[which]

    @cached_property
    def _table(self) -> Tensor | None:
        """(height, width, 3) unit directions in camera axes, where all views have one distorted lens and it is small.

        Undoing a distortion takes some ten Newton steps; training asks for the same pixels again and again.
        """
        lens = torch.cat([self.intrinsics, self._coefficients, self._size], -1)
        if not MODELS[self.model] or not len(self) or lens.requires_grad or not (lens == lens[0]).all():
            return None
        width, height = self.sizes[0].tolist()
        if width * height * 3 * lens.element_size() > _TABLE_BYTES:
            return None
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack([x.reshape(-1), y.reshape(-1)], -1).to(self.device)
        return self._solve(pixels.new_zeros(len(pixels)), self._places(pixels)).reshape(height, width, 3)

    def _look(self, view: Tensor, pixels: Tensor) -> Tensor:
        """(n_rays, 3) unit directions in camera axes."""
        if not pixels.is_floating_point() and self._table is not None:
            return self._table[pixels[:, 1], pixels[:, 0]]
        return self._solve(view, self._places(pixels))

    def _solve(self, view: Tensor, places: Tensor) -> Tensor:
        inside = look(
            self.model, places, self.intrinsics[view], self._coefficients[view], self._limit[view], self._size[view]
        )
        return torch.nn.functional.normalize(inside, dim=-1)

    def _places(self, pixels: Tensor) -> Tensor:
        shift = 0.0 if pixels.is_floating_point() else 0.5
        return pixels.to(self.poses.dtype) + shift

    def _spread(self, view: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        return view.expand(len(rows)) if view.ndim == 0 else view, rows
