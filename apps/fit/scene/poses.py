"""Camera refinement: a small movement of each training camera, learned beside the field.

    poses = exp(xi) pose,   xi in se(3)

as in BARF (Lin et al. 2021) and nerfacto (Tancik et al. 2023), with lengths in half sides of the box and turns around
its middle, so that one learning rate suits scenes of any size. Photos tell poses only up to a movement of everything
together; `common_movement` is the part that all cameras share.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fieldforge.checks import expect_float, expect_int


class PoseRefinement(nn.Module):
    """Of n cameras; moves nothing at first.

    Args:
        n_photos: how many.
        middle: (3,) around which they turn, in world units.
        length: of a shift by 1.

    Attributes:
        movements: (n, 6) shift and turn of each, the vector xi.

    Example:
        >>> poses = PoseRefinement(1, torch.zeros(3), 1.0)
        >>> poses.movements.data[0, 5] = torch.pi / 2
        >>> origins, directions = poses(torch.eye(3)[:1], torch.eye(3)[:1], torch.zeros(1, dtype=torch.int64))
        >>> (origins - torch.eye(3)[1]).abs().max() < 1e-6, (directions - torch.eye(3)[1]).abs().max() < 1e-6
        (tensor(True), tensor(True))
    """

    middle: Tensor

    def __init__(self, n_photos: int, middle: Tensor, length: float) -> None:
        super().__init__()
        self.movements = nn.Parameter(torch.zeros(expect_int("n_photos", n_photos, 1), 6))
        self.register_buffer("middle", middle.detach().float().clone())
        self.length = expect_float("length", length, 0.0, open_low=True)
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def matrices(self) -> Tensor:
        """(n, 4, 4) movements of the world, lengths in `length` and places from `middle`."""
        (a, b, c), zero = self.movements[:, 3:].unbind(-1), torch.zeros_like(self.movements[:, 0])
        turn = torch.stack([zero, -c, b, c, zero, -a, -b, a, zero], -1).view(-1, 3, 3)
        rows = torch.cat([turn, self.movements[:, :3, None]], -1)
        return torch.linalg.matrix_exp(torch.cat([rows, torch.zeros_like(rows[:, :1])], 1))

    def forward(self, origins: Tensor, directions: Tensor, photo: Tensor) -> tuple[Tensor, Tensor]:
        """Rays (R, 3) of photos (R,), where they are after the movement of each photo's camera."""
        matrices = nn.functional.embedding(photo, self.matrices().flatten(1)).view(-1, 4, 4)
        turn, shift = matrices[:, :3, :3], matrices[:, :3, 3]
        from_middle = torch.einsum("nij,nj->ni", turn, origins - self.middle) + self.length * shift
        moved = from_middle + self.middle, torch.einsum("nij,nj->ni", turn, directions)
        self._last = None
        if moved[0].requires_grad:
            for rays in moved:
                rays.retain_grad()
            self._last = (*moved, photo)
        return moved

    @torch.no_grad()
    def slopes(self) -> tuple[Tensor | None, Tensor | None]:
        """(R, 6) what each of the rays that were moved last adds to the gradient, in a small movement that comes after
        the others, and (R,) its photo; nothing where no gradient came back to rays."""
        if self._last is None:
            return None, None
        origins, directions, photo = self._last
        of_shift, of_direction = origins.grad, directions.grad
        if of_shift is None or of_direction is None:
            return None, None
        of_turn = torch.linalg.cross(origins - self.middle, of_shift) + torch.linalg.cross(directions, of_direction)
        return torch.cat([self.length * of_shift, of_turn], -1), photo

    @torch.no_grad()
    def refined(self, poses: Tensor) -> Tensor:
        """(n, 3, 4) camera axes to world, after their movements; in the dtype of `poses`, where they are."""
        matrices, middle = self.matrices().to(poses), self.middle.to(poses)
        turn = matrices[:, :3, :3]
        place = torch.einsum("nij,nj->ni", turn, poses[:, :, 3] - middle) + self.length * matrices[:, :3, 3] + middle
        return torch.cat([turn @ poses[:, :, :3], place[..., None]], -1)


def common_movement(before: Tensor, after: Tensor, length: float) -> Tensor:
    """(3, 4) the rigid movement that brings cameras (n, 3, 4) nearest to where they are afterwards.

    Least squares over their positions and the tips of their axes, `length` away from them (Kabsch 1976).
    """
    here, there = (_tips(poses, length) for poses in (before, after))
    u, _, v = torch.linalg.svd((there - there.mean(0)).T @ (here - here.mean(0)))
    turn = u @ torch.diag(u.new_tensor([1.0, 1.0, float(torch.linalg.det(u @ v).sign())])) @ v
    return torch.cat([turn, (there.mean(0) - turn @ here.mean(0))[:, None]], -1)


def move(poses: Tensor, movement: Tensor) -> Tensor:
    """(n, 3, 4) poses after a movement (3, 4) of all of them."""
    turn, shift = movement[:, :3].to(poses), movement[:, 3:].to(poses)
    return turn @ poses + torch.cat([torch.zeros_like(turn), shift], -1)


def pose_errors(poses: Tensor, expected: Tensor, length: float) -> tuple[float, float]:
    """Mean turn, in degrees, and mean shift between cameras (n, 3, 4), after the movement that they share is undone."""
    moved = move(poses, common_movement(poses, expected, length))
    cosine = ((moved[:, :, :3] * expected[:, :, :3]).sum((1, 2)) - 1) / 2
    shift = torch.linalg.vector_norm(moved[:, :, 3] - expected[:, :, 3], dim=-1)
    return float(torch.rad2deg(torch.acos(cosine.clamp(-1, 1))).mean()), float(shift.mean())


def _tips(poses: Tensor, length: float) -> Tensor:
    place = poses[:, :, 3]
    return torch.cat([place, *(place + length * poses[:, :, axis] for axis in range(3))])
