import pytest
import torch
from reference.encodings import planes, product

from fieldforge.encodings.tri_plane import TriPlane

JOIN = {
    "Sum": lambda features: [sum(channel) for channel in zip(*features, strict=True)],
    "Concatenation": lambda features: [value for plane in features for value in plane],
    "Product": product,
}


@pytest.mark.parametrize("reduction", JOIN)
def test_equals_the_loop_over_entries(reduction, generator):
    encoding = TriPlane(3, resolution=5, n_features=2, reduction=reduction, generator=generator).double()
    x = torch.rand(10, 3, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    tables = encoding.planes.tolist()
    expected = torch.tensor([JOIN[reduction](planes(point, tables)) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(encoding(x), expected, rtol=0, atol=1e-12)


def test_each_plane_ignores_the_axis_it_leaves_out(generator):
    encoding = TriPlane(3, resolution=6, n_features=2, reduction="Concatenation", generator=generator)
    x = torch.rand(20, 3, generator=generator)
    for plane, axis in enumerate((2, 1, 0)):
        moved = x.clone()
        moved[:, axis] = torch.rand(20, generator=generator)
        same = (encoding(moved) == encoding(x)).unflatten(-1, (3, 2)).all(-1).all(0)
        assert same.tolist() == [i == plane for i in range(3)]


@pytest.mark.parametrize("reduction", JOIN)
def test_first_and_second_derivatives(reduction, generator):
    encoding = TriPlane(3, resolution=4, n_features=2, reduction=reduction, generator=generator).double()
    x = torch.rand(3, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def value(x, entries):
        return torch.func.functional_call(encoding, {"planes": entries}, (x,))

    assert torch.autograd.gradcheck(value, (x, encoding.planes))
    assert torch.autograd.gradgradcheck(encoding, x)


def test_refuses_by_name_before_allocating():
    with pytest.raises(ValueError, match=r"^resolution: 16384 makes 25,769,803,776 parameters"):
        TriPlane(3, resolution=2**14)
    with pytest.raises(ValueError, match=r"^n_input_dims: .* got 4"):
        TriPlane(4)
    with pytest.raises(ValueError, match=r"^reduction: .* did you mean Product"):
        TriPlane(3, reduction="Produkt")
