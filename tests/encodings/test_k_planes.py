import math

import pytest
import torch
from reference.encodings import planes, product

from fieldforge.encodings.k_planes import KPlanes


def fill(encoding, generator):
    """Random entries everywhere, also where time planes are 1."""
    for plane in encoding.planes:
        plane.data.uniform_(0.5, 1.5, generator=generator)
    return encoding.double()


@pytest.mark.parametrize("n_dims", [3, 4])
def test_equals_the_loop_over_entries(n_dims, generator):
    settings = {"resolution": 3, "n_features": 2, "multiscale": [1, 2], "time_resolution": 4}
    encoding = fill(KPlanes(n_dims, **settings), generator)
    x = torch.rand(6, n_dims, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    tables, n_planes = [plane.tolist() for plane in encoding.planes], math.comb(n_dims, 2)
    expected = [
        product(planes(point, tables[:n_planes])) + product(planes(point, tables[n_planes:])) for point in x.tolist()
    ]
    torch.testing.assert_close(encoding(x), torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)


def test_scales_refine_space_and_not_time():
    encoding = KPlanes(4, resolution=3, n_features=2, multiscale=[1, 4], time_resolution=5)
    shapes = [tuple(plane.shape) for plane in encoding.planes]
    assert shapes[:6] == [(3, 3, 2), (3, 3, 2), (3, 5, 2), (3, 3, 2), (3, 5, 2), (3, 5, 2)]
    assert shapes[6:] == [(12, 12, 2), (12, 12, 2), (12, 5, 2), (12, 12, 2), (12, 5, 2), (12, 5, 2)]


def test_starts_still_and_away_from_zero(generator):
    encoding = KPlanes(4, resolution=8, n_features=4, multiscale=[1], generator=generator)
    for plane, pair in zip(encoding.planes, encoding.axes, strict=True):
        if 3 in pair:
            assert (plane == 1).all()
        else:
            assert plane.min() >= 0.1
            assert plane.max() <= 0.5
            assert plane.std() > 0.1  # of U(0.1, 0.5): 0.115


def test_a_zero_in_one_plane_silences_its_column(generator):
    encoding = KPlanes(3, resolution=2, n_features=1, multiscale=[1], generator=generator)
    encoding.planes[0].data[0, 1] = 0  # the column above x = 0, y = 1
    z = torch.rand(5, generator=generator)
    column = torch.stack((torch.zeros(5), torch.ones(5), z), -1)
    assert (encoding(column) == 0).all()
    assert (encoding(1 - column) > 0).all()


def test_separable_functions_are_met_exactly(generator):
    """x-y, x-z and y-z planes whose product is (x y)(x z)(y z) = x² y² z², at the entries."""
    encoding = KPlanes(3, resolution=5, n_features=1, multiscale=[1]).double()
    ramp = torch.linspace(0, 1, 5, dtype=torch.float64)
    for plane in encoding.planes:
        plane.data = (ramp[:, None] * ramp)[..., None]
    x = ramp[torch.randint(5, (20, 3), generator=generator)]
    torch.testing.assert_close(encoding(x)[:, 0], x.square().prod(-1))


def test_channels_are_ranked_by_scale():
    assert KPlanes(3, resolution=2, n_features=2, multiscale=[4, 1]).channel_order().tolist() == [1, 1, 0, 0]


def test_first_and_second_derivatives(generator):
    encoding = fill(KPlanes(4, resolution=2, n_features=1, multiscale=[1, 2], time_resolution=3), generator)
    x = torch.rand(2, 4, generator=generator, dtype=torch.float64).requires_grad_()

    def value(x, *entries):
        named = {f"planes.{i}": entry for i, entry in enumerate(entries)}
        return torch.func.functional_call(encoding, named, (x,))

    assert torch.autograd.gradcheck(value, (x, *encoding.planes))
    assert torch.autograd.gradgradcheck(encoding, x)


@pytest.mark.parametrize(
    ("key", "value"),
    [("multiscale", []), ("multiscale", [1] * 17), ("resolution", 1), ("resolution", 10**9), ("time_resolution", 0)],
)
def test_refuses_by_name(key, value):
    with pytest.raises(ValueError, match=f"^{key}: "):
        KPlanes(4, **{key: value})


def test_refuses_what_does_not_fit_before_allocating():
    with pytest.raises(ValueError, match=r"^resolution: 4096 makes .* parameters"):
        KPlanes(3, resolution=4096)
    with pytest.raises(ValueError, match=r"^n_input_dims: expected an integer from 3 to 4, got 5"):
        KPlanes(5)
