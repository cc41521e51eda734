"""SAPE: a mask that opens from coarse to fine where it is needed."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from reference import exposure as loops

from fieldforge.encodings.sape import SAPE, boxed
from fieldforge.registry import ConfigError, build

WAVES = {"otype": "Frequency", "n_frequencies": 4}


def levelled(n_input_dims: int = 2, resolution: int = 11, seed: int = 0, **keys: Any) -> SAPE:
    """With a level of its own in every cell."""
    sape = SAPE(n_input_dims, nested=WAVES, resolution=resolution, **keys).double()
    sape.level.copy_(torch.randint(0, 5, sape.level.shape, generator=torch.Generator().manual_seed(seed)))
    return sape


@pytest.mark.parametrize(("n_dims", "resolution"), [(1, 12), (1, 101), (2, 10), (2, 11), (3, 4), (3, 5), (2, 3)])
def test_the_mask_is_the_loop(n_dims: int, resolution: int, generator: torch.Generator) -> None:
    sape = levelled(n_dims, resolution)
    x = torch.rand(5, n_dims, dtype=torch.float64, generator=generator)
    x = torch.cat([x, torch.zeros(1, n_dims).double(), torch.ones(1, n_dims).double()])
    cells = itertools.product(range(resolution), repeat=n_dims)
    level = {cell: int(sape.level[cell]) for cell in cells}
    expected = [[loops.mask(p, level, resolution, block) for block in range(4)] for p in x.tolist()]
    torch.testing.assert_close(sape.mask(x).tolist(), expected, rtol=1e-10, atol=1e-12)


def test_features_are_the_nested_ones_times_the_mask_after_the_coordinates(generator: torch.Generator) -> None:
    sape = levelled()
    x = torch.rand(7, 2, dtype=torch.float64, generator=generator)
    of_octave = sape.mask(x)[:, [0, 0, 1, 1, 2, 2, 3, 3] * 2]
    torch.testing.assert_close(sape(x), torch.cat([2 * x - 1, sape.encoding(x) * of_octave], -1))


def test_closed_is_zero_and_open_is_the_nested_encoding(generator: torch.Generator) -> None:
    sape = SAPE(2, nested=WAVES, resolution=16)
    x = torch.rand(50, 2, generator=generator)
    assert not sape(x)[:, 2:].any()
    sape.level.fill_(4)
    torch.testing.assert_close(sape(x)[:, 2:], sape.encoding(x))


def test_no_gradient_goes_through_the_mask(generator: torch.Generator) -> None:
    sape = levelled()
    x = torch.rand(7, 2, dtype=torch.float64, generator=generator).requires_grad_()
    assert not sape.mask(x).requires_grad
    (found,) = torch.autograd.grad(sape(x).sum(), x)
    other = x.detach().clone().requires_grad_()
    held = sape.mask(x.detach())[:, [0, 0, 1, 1, 2, 2, 3, 3] * 2]
    (expected,) = torch.autograd.grad((sape.encoding(other) * held).sum() + (2 * other - 1).sum(), other)
    torch.testing.assert_close(found, expected)


def test_pairs_open_together() -> None:
    """In 3-D blocks of three channels, as the authors have, would cut a sine from its cosine."""
    sape = SAPE(3, nested={"otype": "RandomFourier", "n_features": 7}, resolution=4)
    block = sape.blocks()
    assert torch.equal(block[:7], block[7:])
    length = sape.encoding.frequencies.norm(dim=-1)
    assert torch.equal(block[:7].argsort(), length.argsort())


def test_blocks_are_of_about_equal_size() -> None:
    sape = SAPE(1, nested={"otype": "RandomFourier", "n_features": 100}, resolution=4, n_blocks=8)
    counts = sape.blocks().bincount()
    assert len(counts) == 8
    assert set(counts.tolist()) <= {24, 26}
    many = SAPE(1, nested={"otype": "RandomFourier", "n_features": 300}, resolution=4)
    assert int(many.blocks().max()) == 254  # a level is one byte


def test_without_the_coordinates_the_first_block_is_open() -> None:
    sape = SAPE(2, nested=WAVES, resolution=8, has_identity=False)
    x = torch.rand(5, 2)
    assert sape.n_output_dims == 16
    torch.testing.assert_close(sape.mask(x), torch.tensor([1.0, 0, 0, 0]).expand(5, 4))


def test_a_global_mask_fades_in() -> None:
    sape = SAPE(2, nested=WAVES, scope="Global")
    sape.level.fill_(2)
    sape.ramp.fill_(0.25)
    torch.testing.assert_close(sape.mask(torch.rand(3, 2)), torch.tensor([1.0, 1.0, 0.25, 0.0]).expand(3, 4))


def test_levels_of_a_grid_are_blocks() -> None:
    grid = {"otype": "DenseGrid", "n_levels": 3, "base_resolution": 4, "per_level_scale": 1.5}
    sape = SAPE(2, nested=grid, resolution=8)
    assert sape.blocks().tolist() == [0, 0, 1, 1, 2, 2]


def test_boxed_is_a_mean_over_boxes(generator: torch.Generator) -> None:
    values = torch.rand(4, 4, 4, dtype=torch.float64, generator=generator)
    for k in (3, 5):
        for cell in ((0, 0, 0), (1, 2, 3), (2, 2, 1)):
            box = [float(values[other]) for other in loops.box_of(cell, 4, k)]
            assert float(boxed(values, k)[cell]) == pytest.approx(sum(box) / k**3)
            others = (sum(box) - float(values[cell])) / (k**3 - 1)
            assert float(boxed(values, k, without_middle=True)[cell]) == pytest.approx(others)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"nested": "Identity"}, "encoding.nested: the channels of Identity have no order"),
        ({"resolution": 2}, "encoding.resolution: expected an integer from 3"),
        ({"resolution": 65536}, "encoding.resolution: 65536 makes"),
        ({"n_blocks": 300}, "encoding.n_blocks: expected an integer from 1 to 255"),
        ({"scope": "local"}, "encoding.scope: expected one of Spatial, Global"),
        ({"tolerance": -1.0}, "encoding.tolerance: expected a finite number"),
        ({"nested": {"otype": "SAPE", "nested": "Frequency"}}, "encoding.nested: the channels of SAPE have no order"),
    ],
)
def test_a_bad_key_is_named(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build("encoding", {"otype": "SAPE", "nested": WAVES, **keys}, path="encoding", n_input_dims=2)
    assert str(caught.value).startswith(message)
