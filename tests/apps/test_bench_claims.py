"""What the claims of the methods suite compute besides training: sizes, rates, counts, tables."""

from __future__ import annotations

import math
from dataclasses import asdict

import numpy as np
import pytest
import torch

from fieldforge.apps.bench.methods import bases, claim_of, pairs, random_networks, reparameterisation
from fieldforge.apps.bench.methods.training import best_of, best_rate, noise, of_picture, shape
from fieldforge.apps.compare.size import parameters_of
from fieldforge.apps.images import Picture


def test_the_best_rate_is_looked_for_beyond_the_ends() -> None:
    peak = {rate: db for rate, db in best_of(lambda rate: -abs(math.log(rate / 20.0)), 1.0).items() if db > -2}
    assert best_rate(peak) in (9.0, 27.0)
    assert sorted(best_of(lambda rate: -abs(rate - 1.0), 1.0)) == [0.333333, 1.0, 3.0]
    diverging = best_of(lambda rate: math.nan if rate > 0.05 else -rate, 1.0)
    assert best_rate(diverging) < 0.05
    assert len(best_of(lambda rate: rate, 1.0)) == 6


@pytest.mark.parametrize("n_dims", [2, 3])
def test_arms_of_pairs_are_of_equal_size(n_dims: int) -> None:
    signal = noise(8) if n_dims == 2 else shape("torus", 64)
    configs = pairs.sized_arms(signal)
    wanted = parameters_of(signal, configs[pairs.STANDARD])
    for name, config in configs.items():
        times = 2 if "twice" in name else 1
        assert parameters_of(signal, config) == pytest.approx(times * wanted, rel=0.08), name
    assert {*pairs.PAIRS, *(one for held in pairs.PAIRS.values() for one in held)} == configs.keys()


def test_the_torus_is_at_its_distance() -> None:
    points, distance = (tensor.double() for tensor in shape("torus", 512).train)
    x, y, _ = (points - 0.5).unbind(-1)
    turn = torch.atan2(y, x)
    middle = torch.stack([0.3 * turn.cos(), 0.3 * turn.sin(), torch.zeros_like(turn)], -1) + 0.5
    assert torch.allclose((points - middle).norm(dim=-1) - 0.12, distance[:, 0], atol=1e-6)


def test_a_low_pass_keeps_slow_waves_and_drops_fast_ones() -> None:
    at = (torch.arange(32) + 0.5) / 32
    slow, fast = torch.cos(math.pi * 6 * at), torch.cos(math.pi * 7 * at)  # 3 and 3.5 turns along a side
    values = (slow[:, None] + fast[None])[..., None] + 0.25
    assert torch.allclose(pairs.low_passed(values, 3.0), (slow[:, None] + 0.25).expand(32, 32)[..., None], atol=1e-5)
    assert torch.allclose(pairs.low_passed(values, 16.0), values, atol=1e-5)


def test_overlap_counts_what_is_inside() -> None:
    said, true = torch.tensor([-1.0, -1.0, 1.0, 1.0]), torch.tensor([-1.0, 1.0, -1.0, 1.0])
    assert pairs.overlap(said, true) == pytest.approx(1 / 3)
    assert pairs.overlap(torch.ones(3), torch.ones(3)) == 1.0


def test_the_rule_of_stable_ranks_is_that_of_a_circle() -> None:
    """1 / (2 √π width); ends that are cut have less, samples that see past the ends more of it than the rule says."""
    found = {row.candidate: row.quality["rank"] / row.quality["rule"] - 1 for row in bases.ranks((0.1,), 200)}
    assert abs(found["around a circle"]) < 1e-3
    assert 0.0 < found["shifts end at 0 and 1"] < 0.05 < found["shifts 6 widths past the ends"] < 0.1
    narrow = {row.candidate: row.quality["rank"] / row.quality["rule"] - 1 for row in bases.ranks((0.02,), 200)}
    assert narrow["shifts 6 widths past the ends"] < 0.02


def test_a_head_of_two_codes_is_the_sum_of_both() -> None:
    at = torch.linspace(0, 1, 9, dtype=torch.float64)
    codes = [torch.stack([at, at**2], -1), torch.stack([at, at**3], -1)]
    true = (2 * at - at**2)[:, None, None] + (at**3)[None, :, None] + 0.5
    known, asked = [code[::2] for code in codes], [code[1::2] for code in codes]
    said = bases.asked_sum(known, asked, true[::2, ::2])
    assert torch.allclose(said, true[1::2, 1::2], atol=1e-4)


def test_halves_of_a_picture_share_no_pixel() -> None:
    values = np.arange(64, dtype=np.uint8).reshape(8, 8)
    signal = bases.halved("ramp", Picture.from_array(values))
    known, asked = ((255 * one[1]).round().int().flatten().tolist() for one in (signal.train, signal.test))
    assert known == values[::2, ::2].flatten().tolist()
    assert asked == values[1::2, 1::2].flatten().tolist()


def test_orders_are_counted_place_by_place() -> None:
    assert random_networks.orders([[1, 1, 0], [2, 0, 1], [3, 3, 2]]) == 2


def test_alpha_is_a_pace() -> None:
    """The first step of Adam moves reparameterised matrices in proportion to alpha, and plain ones not at all."""
    signal = of_picture("noise", noise_picture())
    one, two = (reparameterisation.pace("PE", alpha, signal) for alpha in (0.05, 0.1))
    assert two == pytest.approx(2 * one, rel=1e-2)
    assert one == pytest.approx(0.05 * reparameterisation.M / math.sqrt(math.pi * reparameterisation.WIDTH), rel=1.0)


def noise_picture() -> Picture:
    return Picture.from_array(np.random.default_rng(0).integers(0, 255, (16, 16, 3), np.uint8))


@pytest.mark.parametrize("part", ["pairs", "bases", "redshift", "reparameterisation"])
def test_tables_are_written_from_rows(part: str) -> None:
    rows = [asdict(row) for some in claim_of(part).measure(part, None, is_quick=True) for row in some]
    assert all(row["case"].startswith(f"{part}: ") for row in rows)
    lines = claim_of(part).table(part, rows).splitlines()
    candidates = {row["candidate"] for row in rows}
    widths = {line.count("|") for line in lines if line.startswith("|")}
    assert min(widths) > 3
    text = "\n".join(lines)
    assert all(candidate in text for candidate in candidates)
