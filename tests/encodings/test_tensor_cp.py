import pytest
import torch
from reference.encodings import tensor_cp

from fieldforge.encodings.tensor_cp import TensorCP


@pytest.mark.parametrize("n_dims", [2, 3])
def test_equals_the_loop_over_entries(n_dims, generator):
    encoding = TensorCP(n_dims, resolution=5, n_components=3, generator=generator).double()
    x = torch.rand(10, n_dims, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    lines = encoding.lines.tolist()
    expected = torch.tensor([tensor_cp(point, lines) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(encoding(x), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_a_truncated_singular_value_decomposition_is_met_exactly(rank, generator):
    picture = torch.randn(8, 8, generator=generator, dtype=torch.float64)
    u, s, vh = torch.linalg.svd(picture)
    encoding = TensorCP(2, resolution=8, n_components=rank).double()
    encoding.lines.data = torch.stack((u[:, :rank] * s[:rank], vh[:rank].T))
    entry = torch.cartesian_prod(torch.arange(8), torch.arange(8)).double() / 7
    met = encoding(entry).sum(-1).reshape(8, 8)
    torch.testing.assert_close(met, u[:, :rank] * s[:rank] @ vh[:rank], rtol=0, atol=1e-12)
    torch.testing.assert_close((met - picture).square().sum(), s[rank:].square().sum())  # Eckart-Young


def test_fitting_ends_at_the_eckart_young_bound(generator):
    """Gradient descent on the entries of a rank-2 image code meets the best rank-2 matrix, and never beats it."""
    picture = torch.randn(6, 6, generator=generator, dtype=torch.float64)
    bound = torch.linalg.svdvals(picture)[2:].square().sum()
    encoding = TensorCP(2, resolution=6, n_components=2, generator=generator).double()
    entry = torch.cartesian_prod(torch.arange(6), torch.arange(6)).double() / 5
    optimizer = torch.optim.LBFGS(encoding.parameters(), max_iter=300, line_search_fn="strong_wolfe")

    def loss():
        optimizer.zero_grad()
        value = (encoding(entry).sum(-1).reshape(6, 6) - picture).square().sum()
        value.backward()
        return value

    optimizer.step(loss)
    reached = loss().detach()
    assert reached >= bound - 1e-9
    torch.testing.assert_close(reached, bound, rtol=1e-4, atol=0)


def test_first_and_second_derivatives(generator):
    encoding = TensorCP(3, resolution=3, n_components=2, generator=generator).double()
    x = torch.rand(3, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def value(x, lines):
        return torch.func.functional_call(encoding, {"lines": lines}, (x,))

    assert torch.autograd.gradcheck(value, (x, encoding.lines))
    assert torch.autograd.gradgradcheck(encoding, x)


def test_refuses_by_name_before_allocating():
    with pytest.raises(ValueError, match=r"^resolution: 16384 makes .* parameters"):
        TensorCP(3, resolution=2**14, n_components=2**16)
    with pytest.raises(ValueError, match=r"^n_input_dims: expected an integer from 2 to 3, got 4"):
        TensorCP(4)
