import pytest
import torch
from reference.encodings import one_blob, triangle_wave

from fieldforge.encodings.one_blob_frequency import OneBlobFrequency
from fieldforge.registry import build


def test_is_waves_of_three_blobs_of_five_and_the_rest_unchanged(generator):
    x = torch.rand(10, 11, generator=generator, dtype=torch.float64)
    expected = [triangle_wave(p[:3], 5) + one_blob(p[3:8], 8) + p[8:] for p in x.tolist()]
    encoding = OneBlobFrequency(11, n_frequencies=5, n_bins=8)
    torch.testing.assert_close(encoding(x), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["NRC", "OneBlobFrequency", "nrc"])
def test_both_names_of_tiny_cuda_nn_build_it(name):
    encoding = build("encoding", name, n_input_dims=14)
    assert encoding.n_output_dims == 3 * 12 + 5 * 4 + 6
    assert encoding.config() == {"otype": "OneBlobFrequency", "n_frequencies": 12, "n_bins": 4}


def test_eight_coordinates_leave_nothing_unchanged():
    assert OneBlobFrequency(8).n_output_dims == 56


def test_only_the_waves_are_ordered():
    order = OneBlobFrequency(9, n_frequencies=3, n_bins=2).channel_order()
    assert order.tolist() == [0, 1, 2] * 3 + [0] * 11


def test_first_derivative(generator):
    x = torch.rand(3, 9, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(OneBlobFrequency(9, n_frequencies=3), x)


def test_refuses_by_name():
    with pytest.raises(ValueError, match=r"^n_input_dims: expected an integer of at least 8, got 3"):
        OneBlobFrequency(3)
    with pytest.raises(ValueError, match=r"^n_bins: expected a power of two, got 5"):
        OneBlobFrequency(8, n_bins=5)
