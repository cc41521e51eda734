import math

import pytest
import torch
from reference.encodings import interpolate as hats

from fieldforge.backends import use_backend
from fieldforge.encodings.interpolation import interpolate


@pytest.mark.parametrize("sizes", [(2,), (7,), (3, 5), (2, 3, 4)])
def test_equals_the_sum_of_hat_functions(sizes, generator):
    entries = torch.randn(*sizes, 3, generator=generator, dtype=torch.float64)
    x = torch.rand(20, len(sizes), generator=generator, dtype=torch.float64) * 1.4 - 0.2  # also outside
    expected = torch.tensor([hats(entries.tolist(), point) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(interpolate(entries, x), expected, rtol=0, atol=1e-12)


def test_equals_grid_sample_with_aligned_corners_and_border_padding(generator):
    entries = torch.randn(5, 6, 3, generator=generator)
    x = torch.rand(50, 2, generator=generator) * 1.4 - 0.2
    picture = entries.permute(2, 0, 1)[None]  # grid_sample's last axis is the first coordinate it reads
    expected = torch.nn.functional.grid_sample(
        picture, (2 * x - 1).flip(-1)[None, None], align_corners=True, padding_mode="border"
    )
    torch.testing.assert_close(interpolate(entries, x), expected[0, :, 0].T, rtol=0, atol=1e-5)


def test_reads_the_entries_themselves_where_they_stand(generator):
    entries = torch.randn(4, 5, 2, generator=generator, dtype=torch.float64)
    i, j = torch.meshgrid(torch.arange(4), torch.arange(5), indexing="ij")
    x = torch.stack((i / 3, j / 4), -1).double()
    torch.testing.assert_close(interpolate(entries, x), entries, rtol=0, atol=1e-6)


def test_an_affine_function_is_met_everywhere(generator):
    slope = torch.tensor([2.0, -3.0], dtype=torch.float64)
    i, j = torch.meshgrid(torch.arange(5).double() / 4, torch.arange(9).double() / 8, indexing="ij")
    entries = (torch.stack((i, j), -1) @ slope)[..., None] + 1
    x = torch.rand(30, 2, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(interpolate(entries, x)[:, 0], x @ slope + 1)


def test_the_border_goes_on_outside_without_a_slope():
    entries = torch.tensor([[1.0], [2.0], [5.0]])
    x = torch.tensor([[-0.5], [0.0], [1.0], [9.0]], requires_grad=True)
    value = interpolate(entries, x)
    assert value[:, 0].tolist() == [1.0, 1.0, 5.0, 5.0]
    value.sum().backward()
    assert x.grad[0] == x.grad[3] == 0


def test_not_a_number_stays_one_and_reads_no_foreign_memory():
    assert interpolate(torch.ones(3, 3, 2), torch.tensor([[torch.nan, 0.5]])).isnan().all()


def test_first_and_second_derivatives_in_points_and_entries(generator):
    entries = torch.randn(3, 4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    x = torch.rand(4, 2, generator=generator, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(interpolate, (entries, x))
    assert torch.autograd.gradgradcheck(interpolate, (entries, x))


def test_the_mixed_second_derivative_of_a_bilinear_cell():
    entries = torch.tensor([[[0.0], [0.0]], [[0.0], [1.0]]], dtype=torch.float64)  # the function x y
    hessian = torch.autograd.functional.hessian(
        lambda x: interpolate(entries, x).sum(), torch.tensor([0.3, 0.6], dtype=torch.float64)
    )
    torch.testing.assert_close(hessian, torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))


@pytest.mark.parametrize("sizes", [(5,), (4, 7), (3, 2, 4)])
@pytest.mark.parametrize("n", [0, 1, 1009])
def test_all_corners_at_once_are_corner_by_corner(sizes: tuple[int, ...], n: int, generator: torch.Generator) -> None:
    """Value, gradient in the table, and the gradient of that gradient; points outside and no number among them."""
    table = torch.randn(*sizes, 3, generator=generator).requires_grad_()
    x = torch.rand(n, len(sizes), generator=generator) * 1.4 - 0.2
    if n > 9:
        x[3, 0] = math.nan
    grad = torch.randn(n, 3, generator=generator).requires_grad_()
    found = []
    for name in ("reference", "cpu"):
        with use_backend(name):
            value = interpolate(table, x)
        (slope,) = torch.autograd.grad(value.nan_to_num(), table, grad, create_graph=True)
        found.append([value, slope])
        if n:  # PyTorch has no second derivative of `embedding` for no points
            found[-1] += torch.autograd.grad(slope.nan_to_num().square().sum(), grad)
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_any_number_of_threads_gives_the_same_gradient(generator: torch.Generator) -> None:
    table = torch.randn(9, 9, 5, generator=generator).requires_grad_()
    x = torch.rand(20000, 2, generator=generator)
    n_before, found = torch.get_num_threads(), []
    try:
        for n_threads in (1, 2, 3):
            torch.set_num_threads(n_threads)
            value = interpolate(table, x)
            found.append([value.detach(), *torch.autograd.grad(value.square().sum(), table)])
    finally:
        torch.set_num_threads(n_before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
