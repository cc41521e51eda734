"""NeuRBF: features by their formula, centres where a signal weighs most."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from reference import neurbf as loops

from fieldforge.encodings.clusters import covariances, draw_by_weight, k_means
from fieldforge.encodings.neurbf import NeuRBF, lattice
from fieldforge.registry import ConfigError, build


def placed(n_dims: int, generator: torch.Generator, **keys: object) -> NeuRBF:
    """In float64, centres moved by points that stand close together in one corner, weights of size 1."""
    sizes = {"n_centers": 40, "n_features": 5, "high_frequency": 8.0, "resolution": 6, "generator": generator}
    encoding = NeuRBF(n_dims, **{**sizes, **keys}).double()  # type: ignore[arg-type]
    points = torch.rand(300, n_dims, generator=generator) ** 2
    encoding.place(points, torch.rand(300, generator=generator), generator=generator)
    with torch.no_grad():
        encoding.weights.normal_(generator=generator)
    return encoding


@pytest.mark.parametrize("n_dims", [1, 2, 3])
def test_features_are_the_loop(n_dims: int, generator: torch.Generator) -> None:
    encoding = placed(n_dims, generator)
    x = torch.rand(17, n_dims, dtype=torch.float64, generator=generator) * 1.2 - 0.1
    expected = [
        loops.features(
            point, encoding.centers.tolist(), encoding.shapes.tolist(), encoding.weights.tolist(), n_neighbors=4,
            frequencies=[0.125 * 64 ** (j / 4) for j in range(5)], side=6,
        )
        for point in x.tolist()
    ]  # fmt: skip
    torch.testing.assert_close(encoding(x).tolist(), expected, rtol=1e-9, atol=1e-12)


def test_centres_of_clusters_are_the_loop(generator: torch.Generator) -> None:
    points, weights = torch.rand(60, 2, dtype=torch.float64, generator=generator), torch.arange(60.0).double()
    begin = torch.cat([points[:7], torch.tensor([[9.0, 9.0]])])  # nobody is near the last one
    found, label = k_means(points, weights, begin, 4)
    torch.testing.assert_close(found.tolist(), loops.k_means(points.tolist(), weights.tolist(), begin.tolist(), 4))
    spread = covariances(points, weights, found, label)
    assert bool(spread[-1].isnan().all())
    own = points[label == 2] - found[2]
    w = weights[label == 2]
    torch.testing.assert_close(spread[2], (w[:, None, None] * own[:, :, None] * own[:, None, :]).sum(0) / w.sum())


def test_draws_follow_the_weights(generator: torch.Generator) -> None:
    weights = torch.tensor([0.0, 1.0, 3.0, 4.0])
    first = torch.stack([draw_by_weight(weights, 1, generator) for _ in range(4000)])[:, 0]
    torch.testing.assert_close(torch.bincount(first, minlength=4) / 4000, weights / 8, rtol=0, atol=0.03)
    assert set(draw_by_weight(weights, 3, generator).tolist()) == {1, 2, 3}


def test_centres_crowd_where_the_weight_is(generator: torch.Generator) -> None:
    x = torch.rand(4000, 2, generator=generator)
    encoding = NeuRBF(2, n_centers=200)
    encoding.place(x, torch.where(x[:, 0] < 0.25, 1.0, 0.01), generator=generator)
    assert float((encoding.centers[:, 0] < 0.25).float().mean()) > 0.8


def test_kernels_lie_along_their_clusters(generator: torch.Generator) -> None:
    """Points along a line: far along it is as near as close across it."""
    along = torch.rand(2000, generator=generator)
    across = 0.5 + 0.01 * torch.randn(2000, generator=generator)
    encoding = NeuRBF(2, n_centers=5, n_neighbors=1)
    encoding.place(torch.stack([along, across], -1), torch.ones(2000), generator=generator)
    assert bool((encoding.shapes[:, 1, 1] > 5 * encoding.shapes[:, 0, 0]).all())
    assert bool((torch.linalg.eigvalsh(encoding.shapes) > 0).all())


def test_neighbours_are_found_again_after_centres_move(generator: torch.Generator) -> None:
    encoding, other = placed(2, generator), NeuRBF(2, n_centers=40, n_features=5, high_frequency=8.0, resolution=6)
    x = torch.rand(15, 2, dtype=torch.float64, generator=generator)
    other.double()(x)
    other.load_state_dict(encoding.state_dict())
    assert torch.equal(other(x), encoding(x))
    moved = copy.deepcopy(encoding)
    moved.centers.copy_(moved.centers.flip(-1))
    assert not torch.equal(moved.neighbors(x), encoding.neighbors(x))


def test_the_lattice_is_regular_where_the_number_allows() -> None:
    places, interval = lattice(9, 2)
    assert sorted(places.tolist()) == [[a, b] for a in (0.0, 0.5, 1.0) for b in (0.0, 0.5, 1.0)]
    assert interval == 0.5
    for n in (1, 2, 7, 50):
        places, _ = lattice(n, 3)
        assert len(set(map(tuple, places.tolist()))) == n
        assert places.shape == (n, 3)
        assert float(places.min()) >= 0
        assert float(places.max()) <= 1


def test_points_without_weight_or_fewer_than_centres_do_no_harm(generator: torch.Generator) -> None:
    encoding = NeuRBF(2, n_centers=30)
    for n, weight in ((1, 1.0), (10, 0.0), (100, 0.0), (29, 2.0)):
        encoding.place(torch.rand(n, 2, generator=generator), torch.full((n,), weight), generator=generator)
        assert bool(encoding.centers.isfinite().all())
        assert bool(encoding.shapes.isfinite().all())
        assert bool(encoding(torch.rand(7, 2)).isfinite().all())


@pytest.mark.parametrize("n", [0, 1, 15, 17, 4999])
def test_any_number_of_points(n: int, generator: torch.Generator) -> None:
    assert placed(2, generator)(torch.rand(n, 2, dtype=torch.float64)).shape == (n, 5)


def test_wrong_numbers_are_refused() -> None:
    for keys, message in (
        ({"n_centers": 3}, "n_neighbors: 4 of 3 centres"),
        ({"placement": "Random"}, "placement"),
        ({"resolution": 5000}, "resolution: 5000 cells a side"),
        ({"low_frequency": 0.0}, "low_frequency"),
    ):
        with pytest.raises((ConfigError, ValueError), match=message):
            build("encoding", {"otype": "NeuRBF", **keys}, n_input_dims=2)
    encoding = NeuRBF(2, n_centers=8)
    for points, weights in (
        (torch.rand(3, 2), torch.rand(4)),
        (torch.rand(0, 2), torch.rand(0)),
        (torch.rand(3, 2), -torch.ones(3)),
        (torch.full((3, 2), torch.nan), torch.ones(3)),
    ):
        with pytest.raises(ValueError, match="points, weights: expected"):
            encoding.place(points, weights)


def test_beside_a_grid_it_is_kept_in_a_file(tmp_path: Path, generator: torch.Generator) -> None:
    """Centres and shapes are of the file, so neighbours are too."""
    from fieldforge.fields.file import load_field, save_field
    from fieldforge.fields.kinds.image import ImageField

    parts = [
        {"otype": "NeuRBF", "n_centers": 64, "n_dims_to_encode": 2, "resolution": 16},
        {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 6, "n_dims_to_encode": 2, "dims_to_encode_begin": 0},
    ]
    field = ImageField(encoding={"otype": "Composite", "nested": parts}, network="MLP", width=8, height=8)
    part = field.encoding.parts[0]  # type: ignore[union-attr, index]
    assert isinstance(part, NeuRBF)
    part.place(torch.rand(200, 2, generator=generator), torch.rand(200, generator=generator), generator=generator)
    x = 8 * torch.rand(50, 2, generator=generator)
    save_field(tmp_path / "x.field", field)
    assert torch.equal(load_field(tmp_path / "x.field")[0].color(x), field.color(x))  # type: ignore[attr-defined]
