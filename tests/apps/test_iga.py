"""IGA: residuals with the leading eigenvalues of their tangent kernel levelled."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldforge.apps.fit.gradient_transforms.inductive import IGA, adjustment
from fieldforge.apps.fit.image.job import ImageFit, ImageJob, fit
from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.apps.fit.tangent import jacobian
from fieldforge.apps.images import Picture
from fieldforge.backends import use_backend
from fieldforge.fields.kinds.image import ImageField
from fieldforge.registry import ConfigError, build

WIDTH, HEIGHT = 11, 9


@pytest.fixture
def picture() -> Picture:
    return Picture.from_array(np.random.default_rng(0).integers(0, 255, (HEIGHT, WIDTH, 3), np.uint8))


def quick(picture: Picture, transform: dict | None, **plan: object) -> ImageFit:
    overrides = ["network.n_neurons=12", "network.n_hidden_layers=2", f"fit.batch_size={WIDTH * HEIGHT}"]
    config = {} if transform is None else {"gradient_transform": {"otype": "IGA", "patch": 3} | transform}
    options: dict = {"preset": "siren", "steps": 6, "overrides": overrides, "progress": "quiet"} | plan
    return fit(picture, config=config, **options)


def field_of(picture: Picture, seed: int = 0) -> ImageField:
    job = ImageJob(picture)
    config = job.preset("siren")
    config["network"] |= {"n_neurons": 6, "n_hidden_layers": 2}
    return job.make_field(config, seed)


def kernel(n: int = 12, rank: int = 30) -> torch.Tensor:
    rows = torch.randn(n, rank, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows *= torch.logspace(1, -1, n, dtype=torch.float64)[:, None]
    return rows @ rows.T


@pytest.mark.parametrize(("start", "end"), [(0, 4), (2, 7), (0, 11)])
def test_leading_eigenvalues_are_levelled_and_the_others_stay(start: int, end: int) -> None:
    K = kernel()
    S = adjustment(K, end, start)
    before = torch.linalg.eigvalsh(K).flip(0)
    expected = before.clone()
    expected[start:end] = before[end]
    after = torch.linalg.eigvals(S @ K).real.sort(descending=True).values
    torch.testing.assert_close(after, expected.sort(descending=True).values, rtol=1e-8, atol=1e-8)
    assert float(torch.linalg.matrix_norm(S, 2)) <= 1 + 1e-9
    torch.testing.assert_close(S, S.T)


def test_no_eigenvalues_to_level_is_no_adjustment() -> None:
    torch.testing.assert_close(adjustment(kernel(), 5, 5), torch.eye(12, dtype=torch.float64))


def test_adjustments_do_not_know_the_size_of_a_kernel() -> None:
    torch.testing.assert_close(adjustment(1e6 * kernel(), 4), adjustment(kernel(), 4), rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("representative", ["argmax", "patch_sum"])
def test_the_gradient_is_the_jacobian_times_the_adjusted_residual(picture: Picture, representative: str) -> None:
    """J^T S r, with S from the representatives, written out patch by patch."""
    field, side = field_of(picture), 3
    optimizer = build("optimizer", {"otype": "SGD", "learning_rate": 1.0, "l2_reg": 0.0},
                      parameters=Parameters.of(field, [field.network]))  # fmt: skip
    before = [parameter.detach().clone() for parameter in field.parameters()]
    places, truth = [], []
    for top in range(0, HEIGHT, side):
        for left in range(0, WIDTH, side):
            pixels = [(y, x) for y in range(top, top + side) for x in range(left, left + side)]
            places.append(pixels)
    y, x = np.array(places).transpose(2, 0, 1)
    inside = torch.from_numpy((y < HEIGHT) & (x < WIDTH))
    y, x = np.minimum(y, HEIGHT - 1), np.minimum(x, WIDTH - 1)
    truth = picture.values(torch.from_numpy(y * WIDTH + x))
    points = torch.from_numpy(np.stack([x, y], -1)).float() + 0.5  # (n, p, 2)
    with use_backend("reference"):
        residual = (field(points).detach() - truth) * inside[..., None]
    worst = torch.where(inside, residual.abs().sum(-1), -1.0).argmax(1)
    if representative == "argmax":
        rows = jacobian(field, points[torch.arange(len(worst)), worst])
    else:
        rows = torch.stack([jacobian(field, points[:, place]) for place in worst]).sum(0)
    S = adjustment(rows.double() @ rows.double().T, 4).float()
    changed = torch.einsum("ij,jpc->ipc", S, residual) * inside[..., None]
    expected = sum(
        changed.flatten(0, 1)[:, c] @ jacobian(field, points.flatten(0, 1), lambda said, _, c=c: said[c])
        for c in range(3)
    ) * (2 / (WIDTH * HEIGHT * 3))  # fmt: skip
    step = IGA(end=4, patch=3, representative=representative).step(field, picture, optimizer, ())
    loss, _ = step(0, 1.0)
    assert loss == pytest.approx(float((residual**2).sum()) / (WIDTH * HEIGHT * 3), rel=1e-5)
    moved = torch.cat([(b - p.detach()).ravel() for b, p in zip(before, field.parameters(), strict=True)])
    torch.testing.assert_close(moved, expected, rtol=2e-3, atol=2e-5)


def test_without_adjustment_it_is_the_full_picture_fit(picture: Picture) -> None:
    plain, adjusted = quick(picture, None), quick(picture, {"end": 0})
    for one, other in zip(plain.field.parameters(), adjusted.field.parameters(), strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=2e-2)


def test_an_interrupted_fit_keeps_its_adjustment(picture: Picture, tmp_path: Path) -> None:
    """With refresh=5 the matrix of step 5 is needed at step 7, and is in the checkpoint."""
    transform, path = {"end": 4, "refresh": 5}, tmp_path / "a.field"
    whole = quick(picture, transform, steps=9)

    def interrupt(step: int, per_sample: torch.Tensor) -> None:
        if step == 6:
            os.kill(os.getpid(), signal.SIGTERM)

    stopped = quick(picture, transform, steps=9, output=path, hooks=[interrupt])
    assert stopped.state.stopped_by == "signal"
    resumed = quick(picture, transform, steps=9, output=path, resume=True)
    for one, other in zip(whole.field.parameters(), resumed.field.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    ("transform", "message"),
    [
        ({"patch": 100}, "end: expected less than"),
        ({"end": -1}, "end: "),
        ({"representative": "mean"}, "representative: "),
    ],
)
def test_what_cannot_be_is_refused(transform: dict, message: str, picture: Picture) -> None:
    with pytest.raises(ConfigError, match=f"gradient_transform.{message}"):
        quick(picture, transform)


def test_other_losses_and_selections_are_refused(picture: Picture) -> None:
    with pytest.raises(ConfigError, match="is of the loss L2"):
        quick(picture, {"end": 3}, overrides=["loss.otype=L1"])
    with pytest.raises(ConfigError, match="takes all pixels"):
        fit(picture, preset="siren", progress="quiet",
            config={"gradient_transform": {"otype": "IGA"}, "selection": {"otype": "INT"}})  # fmt: skip
