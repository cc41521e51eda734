"""Figures of generated sets are the papers' loops, and tell new fields from copies."""

from __future__ import annotations

import pytest
import torch
from reference import diffusion as loops

from fieldforge.apps.generate.figures import (
    Clouds,
    Figure,
    Nearest,
    bootstrap,
    chamfer,
    earth_movers,
    euclidean,
    figures,
    frechet,
    novelty,
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def figures_of(samples: torch.Tensor, references: torch.Tensor) -> dict[str, Figure]:
    return figures(euclidean(samples, samples), euclidean(samples, references), euclidean(references, references),
                   generator=seeded())  # fmt: skip


@pytest.mark.parametrize(("n", "m"), [(2, 2), (17, 15), (9, 23)])
def test_figures_are_the_loops(n: int, m: int) -> None:
    samples, references = (
        torch.randn(n, 3, generator=seeded()).double(),
        torch.randn(m, 3, generator=seeded(1)).double(),
    )
    expected = loops.figures(samples.tolist(), references.tolist())
    found = figures_of(samples, references)
    assert {name: figure.value for name, figure in found.items()} == pytest.approx(expected, rel=1e-12)
    assert all(figure.low <= figure.value <= figure.high for figure in found.values())


def test_chamfer_is_the_loop() -> None:
    a, b = torch.randn(3, 7, 2, generator=seeded()).double(), torch.randn(4, 5, 2, generator=seeded(1)).double()
    expected = [[loops.chamfer(x, y) for y in b.tolist()] for x in a.tolist()]
    torch.testing.assert_close(chamfer(a, b).tolist(), expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(chamfer(a, a), chamfer(a, a.clone()), rtol=1e-12, atol=0)  # by halves
    assert float(chamfer(a, a).diagonal().max()) == 0
    assert torch.equal(chamfer(Clouds(a), Clouds(b)), chamfer(a, b))
    with pytest.raises(ValueError, match=r"^b: expected \(n, p, d\) and \(m, q, d\) points"):
        chamfer(a, torch.zeros(2, 0, 2))


def test_the_earth_mover_tries_every_matching() -> None:
    a, b = torch.randn(2, 5, 2, generator=seeded()).double(), torch.randn(3, 5, 2, generator=seeded(1)).double()
    expected = [[loops.earth_movers(x, y) for y in b.tolist()] for x in a.tolist()]
    torch.testing.assert_close(earth_movers(a, b).tolist(), expected, rtol=1e-12, atol=0)
    with pytest.raises(ValueError, match=r"^a: expected \(n, p, d\) and \(m, p, d\) points"):
        earth_movers(a, b[:, :4])


def test_known_sets_have_known_figures() -> None:
    """The same distribution scores about a half, another one 1, the references themselves 0."""
    references, same = torch.randn(300, 4, generator=seeded()), torch.randn(300, 4, generator=seeded(1))
    found = figures_of(same, references)
    assert found["1-NNA"].value == pytest.approx(0.5, abs=0.06)
    assert found["1-NNA"].low < 0.5 < found["1-NNA"].high
    far = figures_of(same + 100, references)
    assert far["1-NNA"].value == 1
    assert far["COV"].value < 0.05
    copies = figures_of(references, references)
    assert (copies["MMD"].value, copies["COV"].value, copies["1-NNA"].value) == (0, 1, 0)


def test_a_sample_that_is_nothing_is_told_apart() -> None:
    """Ten of the same law and ten without a surface: the ten count as ten right answers more."""
    a, b = torch.randn(10, 3, generator=seeded()), torch.randn(20, 3, generator=seeded(1))
    square = euclidean(a, a), euclidean(a, b), euclidean(b, b)
    without, found = figures(*square, generator=seeded()), figures(*square, n_lost=10, generator=seeded())
    assert found["1-NNA"].value == pytest.approx((without["1-NNA"].value * 30 + 10) / 40)
    assert found["MMD"] == without["MMD"]


def test_a_tie_counts_half() -> None:
    """Two samples on one place, two references on it too: nobody knows."""
    place = torch.zeros(2, 1)
    assert figures_of(place, place)["1-NNA"].value == 0.5


def test_intervals_shrink_with_the_root_of_the_items() -> None:
    few, many = (bootstrap(torch.randn(n, generator=seeded()), generator=seeded(1)) for n in (100, 10_000))
    assert (few.high - few.low) / (many.high - many.low) == pytest.approx(10, rel=0.25)
    assert few.high - few.low == pytest.approx(2 * 1.96 / 10, rel=0.2)


def nearest(samples: torch.Tensor, training: torch.Tensor, *, is_own: bool = False) -> Nearest:
    distances = euclidean(samples, training)
    if is_own:
        distances.fill_diagonal_(torch.inf)
    first, index = distances.topk(2, dim=1, largest=False)
    return Nearest(index[:, 0].numpy(), first[:, 0].double().numpy(), first[:, 1].double().numpy())


def test_novelty_tells_copies_from_mixtures_from_new() -> None:
    training, other = torch.randn(200, 8, generator=seeded()), torch.randn(200, 8, generator=seeded(1))
    jitter = training + 0.02 * torch.randn(200, 8, generator=seeded(2))
    mixed = (training + training[euclidean(training, training).argsort(1)[:, 1]]) / 2
    own = nearest(training, training, is_own=True)
    found = {}
    for name, samples in {"same law": other, "jitter": jitter, "between": mixed, "copies": training}.items():
        found[name] = novelty(nearest(samples, training), own)
    assert found["same law"].ratio == pytest.approx(1, abs=0.1)
    assert found["same law"].nearer == pytest.approx(0.5, abs=0.06)
    assert found["same law"].below == pytest.approx(0.05, abs=0.05)
    assert found["same law"].copies <= found["same law"].below
    assert found["jitter"].ratio < 0.1
    assert found["jitter"].copies > 0.95
    assert found["copies"].copies == 1
    assert found["between"].ratio == pytest.approx(0.5, abs=0.05)
    assert (found["between"].below > 0.5, found["between"].copies) == (True, 0)


def test_a_copy_of_a_field_that_has_a_twin_is_a_copy() -> None:
    """The second nearest is as near; the distance alone says it, or that it is 0."""
    training = torch.randn(100, 4, generator=seeded())
    twins = torch.cat([training, training])
    samples = twins[:10] + 1e-3
    assert novelty(nearest(samples, twins), nearest(training, training, is_own=True)).copies == 1
    assert novelty(nearest(training, twins), nearest(twins, twins, is_own=True)).copies == 1


def test_the_frechet_distance_of_gaussians_is_known() -> None:
    """|μ - ν|² + Σ (σ - τ)² where both are diagonal, and 0 of a set with itself."""
    x = torch.randn(20_000, 3, generator=seeded()).double()
    y = torch.randn(20_000, 3, generator=seeded(1)).double() * torch.tensor([1.0, 2.0, 3.0]) + 1
    assert frechet(x, y) == pytest.approx(3 + 0 + 1 + 4, rel=0.05)
    assert frechet(x, x) == pytest.approx(0, abs=1e-9)


def test_wrong_matrices_are_named() -> None:
    square = torch.ones(3, 3)
    with pytest.raises(ValueError, match=r"^between: expected \(n, n\), \(n, m\) and \(m, m\)"):
        figures(square, torch.ones(3, 2), square)
    with pytest.raises(ValueError, match=r"^between: expected distances, got 9 that are not a number"):
        figures(square, square * torch.nan, square)
    none = nearest(torch.zeros(0, 3), square)
    with pytest.raises(ValueError, match=r"^samples: expected samples and training fields, got 0 and 3"):
        novelty(none, nearest(square, square))
