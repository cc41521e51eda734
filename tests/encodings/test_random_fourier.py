import math

import pytest
import torch
from reference.encodings import random_fourier

from fieldforge.encodings.random_fourier import RandomFourier


def test_equals_the_formula_in_float64(generator):
    encoding = RandomFourier(3, n_features=8, sigma=2.0, generator=generator).double()
    x = torch.rand(10, 3, generator=generator, dtype=torch.float64)
    rows = encoding.frequencies.tolist()
    expected = torch.tensor([random_fourier(point, rows) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(encoding(x), expected, rtol=0, atol=1e-12)


def test_products_estimate_the_gaussian_kernel(generator):
    encoding = RandomFourier(2, n_features=20_000, sigma=0.5, generator=generator)
    x, y = torch.tensor([0.1, 0.2]), torch.tensor([0.4, 0.1])
    estimate = encoding(x) @ encoding(y) / encoding.n_features
    exact = math.exp(-2 * math.pi**2 * 0.5**2 * float((x - y).square().sum()))
    assert abs(float(estimate) - exact) < 4 / math.sqrt(2 * encoding.n_features)


def test_frequencies_have_the_spread_that_was_asked_for(generator):
    rows = RandomFourier(2, n_features=10_000, sigma=7.0, generator=generator).frequencies
    assert abs(float(rows.std()) - 7.0) < 0.2
    assert abs(float(rows.mean())) < 0.2


def test_frequencies_travel_with_the_state_and_are_not_trained(generator):
    one, other = RandomFourier(2, n_features=4, generator=generator), RandomFourier(2, n_features=4)
    other.load_state_dict(one.state_dict())
    x = torch.rand(3, 2)
    assert torch.equal(one(x), other(x))
    assert list(one.parameters()) == []


def test_channels_are_ranked_by_length_of_frequency(generator):
    encoding = RandomFourier(3, n_features=16, generator=generator)
    lengths = encoding.frequencies.norm(dim=-1).repeat(2)
    by_rank = lengths[encoding.channel_order().argsort()]
    assert (by_rank.diff() >= 0).all()
    assert torch.equal(encoding.channel_order()[:16], encoding.channel_order()[16:])


def test_first_and_second_derivatives(generator):
    encoding = RandomFourier(2, n_features=3, sigma=1.0, generator=generator).double()
    x = torch.rand(4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(encoding, x)
    assert torch.autograd.gradgradcheck(encoding, x)


@pytest.mark.parametrize(("key", "value"), [("n_features", 10**9), ("sigma", 0.0), ("sigma", math.inf)])
def test_refuses_by_name(key, value):
    with pytest.raises(ValueError, match=f"^{key}: "):
        RandomFourier(2, **{key: value})
