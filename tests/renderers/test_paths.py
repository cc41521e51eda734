"""Paths of cameras: circles, spirals, and smooth ways through known poses."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from fieldforge.renderers.cameras import paths
from fieldforge.renderers.cameras.axes import from_quaternion, to_quaternion


def random_rotations(n: int, seed: int = 0) -> np.ndarray:
    return from_quaternion(np.random.default_rng(seed).normal(size=(n, 4)))


def ring(n: int, seed: int | None = None) -> np.ndarray:
    """Poses around the origin, in order, or shuffled."""
    cameras = paths.orbit((0, 0, 0), distance=3, up=(0, 0, 1), elevation=20, n_frames=n, width=8, height=8, focal=8)
    poses = cameras.poses.double().numpy()
    return poses if seed is None else poses[np.random.default_rng(seed).permutation(n)]


def test_quaternions_go_there_and_back() -> None:
    turns = np.concatenate([random_rotations(200), from_quaternion(np.eye(4)), -random_rotations(5) * -1])
    assert np.allclose(from_quaternion(to_quaternion(turns)), turns, atol=1e-12)


@pytest.mark.parametrize("up", [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 2, -3)])
def test_an_orbit_goes_to_the_right_and_looks_at_the_middle(up: tuple[float, ...]) -> None:
    cameras = paths.orbit(
        (1, 2, 3), distance=2, up=up, elevation=30, n_frames=12, width=20, height=10, focal=15
    ).to(torch.float64)  # fmt: skip
    pixels, depth = cameras.project(torch.arange(12), torch.tensor([[1.0, 2.0, 3.0]]).expand(12, 3))
    torch.testing.assert_close(
        pixels, torch.tensor([[10.0, 5.0]], dtype=torch.float64).expand(12, 2), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(depth, torch.full((12,), 2.0, dtype=torch.float64), atol=1e-5, rtol=0)
    axis = torch.nn.functional.normalize(torch.tensor(up, dtype=torch.float64), dim=0)
    height = (cameras.positions - torch.tensor([1.0, 2.0, 3.0])) @ axis
    torch.testing.assert_close(height, torch.ones(12, dtype=torch.float64), atol=1e-5, rtol=0)
    moved = cameras.positions[1] - cameras.positions[0]
    assert float(moved @ cameras.poses[0, :, 0]) > 0.5  # to the right of the first picture


def test_a_smooth_path_meets_its_keys_at_an_even_pace() -> None:
    keys = ring(7)
    path = paths.interpolate(keys, 601)
    assert np.allclose(path[[0, -1]], keys[[0, -1]], atol=1e-6)
    nearest = np.linalg.norm(path[:, None, :, 3] - keys[None, :, :, 3], axis=-1).min(0)
    assert nearest.max() < 0.03
    steps = np.linalg.norm(np.diff(path[:, :, 3], axis=0), axis=1)
    assert steps.max() < 1.2 * steps.min()
    turns = path[:, :, :3]
    assert np.allclose(turns @ turns.transpose(0, 2, 1), np.eye(3), atol=1e-9)
    assert np.allclose(np.linalg.norm(path[:, :, 3], axis=1), 3, atol=0.1)  # a circle again, nearly


def test_a_cycle_has_no_seam() -> None:
    path = paths.interpolate(ring(6), 240, is_cycle=True)
    around = np.concatenate([path, path[:2]])
    second = np.linalg.norm(np.diff(around[:, :, 3], 2, axis=0), axis=1)
    assert second[-2:].max() < 3 * np.median(second)
    turned = np.linalg.norm(np.diff(around[:, :, :3], axis=0), axis=(1, 2))
    assert turned.max() < 1.5 * np.median(turned)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_few_and_repeated_keys_do(n: int) -> None:
    keys = np.repeat(ring(9)[:n], 2, 0)
    path = paths.interpolate(keys, 5)
    assert path.shape == (5, 3, 4)
    assert np.isfinite(path).all()
    assert np.allclose(path[0], keys[0], atol=1e-6)
    assert np.isfinite(paths.interpolate(keys, 5, is_cycle=True)).all()


def test_shuffled_cameras_are_put_in_a_short_order_and_ordered_ones_are_left() -> None:
    def length(poses: np.ndarray) -> float:
        return float(np.linalg.norm(np.diff(poses[:, :, 3], axis=0), axis=1).sum())

    shuffled = ring(24, seed=3)
    order = paths.in_short_order(shuffled)
    assert sorted(order) == list(range(24))
    assert length(shuffled[order]) < 1.1 * length(ring(24)) < 0.5 * length(shuffled)
    assert (paths.in_short_order(ring(24)) == np.arange(24)).all()


def test_cameras_around_something_look_at_it_and_parallel_ones_at_nothing() -> None:
    moved = ring(9)
    moved[:, :, 3] += [5, 6, 7]
    middle = paths.looked_at(moved)
    assert middle is not None
    assert np.allclose(middle, [5, 6, 7], atol=1e-5)
    assert paths.looked_at(np.repeat(ring(9)[:1], 4, 0)) is None
    assert paths.looked_at(ring(9)[:1]) is None


def test_a_spiral_stays_near_the_cameras_and_looks_at_one_place() -> None:
    generator = np.random.default_rng(0)
    places = generator.uniform(-1, 1, (20, 3)) * [1, 0.5, 0.2] + [4, 5, 6]
    poses = paths.toward(places, np.tile([0.0, 0.0, 1.0], (20, 1)), np.array([0.0, 1.0, 0.0]))
    path = paths.spiral(poses, near=2.0, far=10.0, n_frames=90)
    assert np.abs(path[:, :, 3] - [4, 5, 6]).max() < 1.3
    assert (path[:, 2, 2] > 0.8).all()
    focus = paths.looked_at(path)
    assert focus is None or abs(focus[2] - 6 + 1 / (0.25 / 1.8 + 0.75 / 50)) < 0.5
    closing = np.linalg.norm(path[0, :, 3] - path[-1, :, 3])
    assert closing < 2 * np.linalg.norm(np.diff(path[:, :, 3], axis=0), axis=1).max()
    with pytest.raises(ValueError, match="orbit or interpolate"):
        paths.spiral(ring(8), near=2.0, far=10.0, n_frames=9)


@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_b_splines_are_weighted_means_and_smooth_as_their_order_says(order: int) -> None:
    keys = np.random.default_rng(0).normal(size=(6, 2))
    at = np.linspace(1.01, 3.99, 2001)
    assert np.allclose(paths.b_spline(np.ones((6, 1)), at, order=order), 1)
    path = paths.b_spline(keys, at, order=order)
    jump = np.abs(np.diff(path, max(order, 1), axis=0)).max()
    for _ in range(2):  # the order-th difference falls with the step to that power; jumps would not
        at = np.linspace(1.01, 3.99, 2 * len(at))
    finer = np.abs(np.diff(paths.b_spline(keys, at, order=order), max(order, 1), axis=0)).max()
    assert math.isclose(finer, jump, rel_tol=0.2) if order == 0 else finer < 2 * jump / 4**order
    if order == 1:
        assert np.allclose(paths.b_spline(keys, np.arange(6.0) - 1e-12, order=1), keys, atol=1e-9)
    turned = paths.b_spline(np.roll(keys, -1, 0), np.array([2.5]), order=order, is_cycle=True)
    assert np.allclose(turned, paths.b_spline(keys, np.array([3.5]), order=order, is_cycle=True))
