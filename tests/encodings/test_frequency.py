import math

import pytest
import torch
from reference.encodings import frequency

from fieldforge.encodings.frequency import Frequency


def test_equals_the_formula_in_float64(generator):
    x = torch.rand(20, 3, generator=generator, dtype=torch.float64) * 6 - 3
    expected = torch.tensor([frequency(point, 7) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(Frequency(3, n_frequencies=7)(x), expected, rtol=0, atol=1e-12)


def test_literal_values_in_the_order_of_tiny_cuda_nn():
    half = math.sqrt(0.5)
    expected = [half, half, 1, 0, 0, -1, 1, 0, 0, -1, 0, 1]  # x: sin, cos of π/4, π/2, π; then y: of π/2, π, 2π
    torch.testing.assert_close(Frequency(2, n_frequencies=3)(torch.tensor([0.25, 0.5])), torch.tensor(expected).float())


def test_high_octaves_are_as_exact_in_float32_as_low_ones(generator):
    x = torch.rand(200, 2, generator=generator)
    encoding = Frequency(2, n_frequencies=20)
    assert (encoding(x) - encoding(x.double())).abs().max() < 3e-7


def test_repeats_with_period_two(generator):
    x = torch.rand(50, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(Frequency(2)(x), Frequency(2)(x + 2), rtol=0, atol=1e-9)


def test_first_and_second_derivatives(generator):
    x = torch.rand(4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    encoding = Frequency(2, n_frequencies=3)
    assert torch.autograd.gradcheck(encoding, x)
    assert torch.autograd.gradgradcheck(encoding, x)


def test_each_octave_doubles_the_slope_and_ranks_finer():
    encoding = Frequency(2, n_frequencies=4)
    x = torch.zeros(2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(encoding, x)  # sines rise at 0, cosines are flat
    slopes = jacobian[::2].sum(-1)
    torch.testing.assert_close(slopes, math.pi * encoding.channel_order()[::2].double().exp2())


@pytest.mark.parametrize("n_frequencies", [0, 65, 10**9])
def test_refuses_counts_out_of_range(n_frequencies):
    with pytest.raises(ValueError, match=r"^n_frequencies: expected an integer from 1 to 64"):
        Frequency(2, n_frequencies=n_frequencies)
