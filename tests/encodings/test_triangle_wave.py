import pytest
import torch
from reference.encodings import triangle_wave

from fieldforge.encodings.triangle_wave import TriangleWave


def test_equals_the_definition_in_float64(generator):
    x = torch.rand(20, 3, generator=generator, dtype=torch.float64) * 6 - 3
    expected = torch.tensor([triangle_wave(point, 7) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(TriangleWave(3, n_frequencies=7)(x), expected, rtol=0, atol=1e-12)


def test_literal_values():
    # x = 0 reads the phases: 0, 1/4, 1/2, 3/4 of a turn
    torch.testing.assert_close(TriangleWave(1, n_frequencies=4)(torch.zeros(1)), torch.tensor([1.0, 0.0, -1.0, 0.0]))
    torch.testing.assert_close(TriangleWave(1, n_frequencies=2)(torch.ones(1)), torch.tensor([-1.0, 0.0]))


def test_slopes_are_two_to_the_octave_plus_one(generator):
    encoding = TriangleWave(1, n_frequencies=6)
    for x in torch.rand(20, 1, generator=generator, dtype=torch.float64):
        slopes = torch.autograd.functional.jacobian(encoding, x)[:, 0]
        torch.testing.assert_close(slopes.abs(), 2.0 ** (encoding.channel_order() + 1.0).double())


def test_slope_has_the_sign_of_tiny_cuda_nn(generator):
    encoding = TriangleWave(1, n_frequencies=5)
    for x in torch.rand(20, 1, generator=generator, dtype=torch.float64) * 4 - 2:
        turns = x * 2.0 ** (torch.arange(5) - 1) + torch.arange(5) / 4
        falls = torch.floor(2 * turns) % 2 == 0
        assert torch.equal(torch.autograd.functional.jacobian(encoding, x)[:, 0] < 0, falls)


def test_first_derivative_between_the_turning_points(generator):
    x = torch.rand(4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(TriangleWave(2, n_frequencies=4), x)


def test_is_continuous_where_the_wave_turns():
    at = torch.arange(0, 33, dtype=torch.float64)[:, None] / 32
    encoding = TriangleWave(1, n_frequencies=6)
    assert (encoding(at - 1e-9) - encoding(at + 1e-9)).abs().max() < 2e-9 * 2**7


def test_refuses_counts_out_of_range():
    with pytest.raises(ValueError, match=r"^n_frequencies: expected an integer from 1 to 64, got 0"):
        TriangleWave(2, n_frequencies=0)
