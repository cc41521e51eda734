import pytest
import torch
from reference.encodings import one_blob

from fieldforge.encodings.one_blob import OneBlob, quartic_cdf


@pytest.mark.parametrize("n_bins", [1, 2, 4, 16])
def test_equals_the_kernel_integrated_over_each_bin(n_bins, generator):
    x = torch.rand(20, 2, generator=generator, dtype=torch.float64) * 4 - 1.5  # also outside the unit square
    expected = torch.tensor([one_blob(point, n_bins) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(OneBlob(2, n_bins=n_bins)(x), expected, rtol=0, atol=1e-13)


def test_cdf_equals_the_polynomial_of_tiny_cuda_nn():
    u = torch.linspace(-1, 1, 101, dtype=torch.float64)
    expected = 15 / 16 * u * (1 - 2 / 3 * u**2 + 1 / 5 * u**4) + 0.5
    torch.testing.assert_close(quartic_cdf(u), expected, rtol=0, atol=1e-15)


def test_bins_are_a_partition_of_unity_with_at_most_three_in_use(generator):
    x = torch.rand(1000, 1, generator=generator)
    bins = OneBlob(1, n_bins=32)(x)
    assert bins.min() > -1e-6
    assert (bins.sum(-1) - 1).abs().max() < 1e-5
    assert ((bins.abs() > 1e-6).sum(-1) <= 3).all()


def test_zero_and_one_are_the_same_place():
    ends = OneBlob(1, n_bins=8)(torch.tensor([[0.0], [1.0]], dtype=torch.float64))
    torch.testing.assert_close(ends[0], ends[1], rtol=0, atol=1e-15)
    assert ends[0, 0] == ends[0, -1] == 0.5


def test_moving_by_a_bin_moves_the_code_by_a_bin(generator):
    x = torch.rand(50, 1, generator=generator, dtype=torch.float64)
    encoding = OneBlob(1, n_bins=8)
    torch.testing.assert_close(encoding((x + 1 / 8) % 1), encoding(x).roll(1, -1), rtol=0, atol=1e-14)


def test_outside_repeats_then_fades_to_nothing():
    encoding = OneBlob(1, n_bins=4)
    inside = torch.linspace(0.25, 0.75, 9, dtype=torch.float64)[:, None]
    for period in (-1, 1):
        torch.testing.assert_close(encoding(inside + period), encoding(inside), rtol=0, atol=1e-14)
    far = torch.tensor([[-40.0], [-1.25], [2.25], [1e6]], dtype=torch.float64)
    assert encoding(far).abs().max() == 0


def test_first_and_second_derivatives(generator):
    x = torch.rand(6, 2, generator=generator, dtype=torch.float64).requires_grad_()
    encoding = OneBlob(2, n_bins=4)
    assert torch.autograd.gradcheck(encoding, x)
    assert torch.autograd.gradgradcheck(encoding, x)


def test_second_derivative_is_continuous_and_the_third_is_not():
    def derivatives(x):
        """First bin's 0th to 3rd derivative."""
        x = torch.tensor([x], dtype=torch.float64, requires_grad=True)
        value, out = OneBlob(1, n_bins=4)(x)[0], []
        for _ in range(3):
            out.append(float(value.detach()))
            (value,) = torch.autograd.grad(value.sum(), x, create_graph=True)
        return torch.tensor([*out, float(value.detach())])

    jump = (derivatives(0.5 + 1e-7) - derivatives(0.5 - 1e-7)).abs()  # where the blob leaves the first bin
    assert jump[:3].max() < 1e-2
    assert jump[3] > 100


@pytest.mark.parametrize("n_bins", [3, 12, 1000])
def test_refuses_what_is_no_power_of_two(n_bins):
    with pytest.raises(ValueError, match=f"^n_bins: expected a power of two, got {n_bins}"):
        OneBlob(2, n_bins=n_bins)
