import pytest
import torch
from reference.encodings import tensor_vm

from fieldforge.encodings.tensor_vm import TensorVM


def test_equals_the_loop_over_entries(generator):
    encoding = TensorVM(3, resolution=5, n_components=2, generator=generator).double()
    x = torch.rand(10, 3, generator=generator, dtype=torch.float64) * 1.2 - 0.1
    planes, lines = encoding.planes.tolist(), encoding.lines.tolist()
    expected = torch.tensor([tensor_vm(point, planes, lines) for point in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(encoding(x), expected, rtol=0, atol=1e-12)


def test_a_volume_of_one_slice_per_component_is_met_exactly(generator):
    """Every R³ volume is R components of one mode: a slice times a unit vector."""
    volume = torch.randn(4, 4, 4, generator=generator, dtype=torch.float64)
    encoding = TensorVM(3, resolution=4, n_components=4).double()
    encoding.planes.data[0] = volume  # [x, y, r]: slice r
    encoding.lines.data[0] = torch.eye(4, dtype=torch.float64)
    encoding.planes.data[1:] = 0
    entry = torch.cartesian_prod(*[torch.arange(4)] * 3)
    met = encoding(entry.double() / 3).sum(-1)
    torch.testing.assert_close(met, volume.flatten(), rtol=0, atol=1e-12)


def test_entries_start_with_a_spread_of_a_tenth(generator):
    encoding = TensorVM(3, resolution=32, n_components=8, generator=generator)
    assert abs(float(encoding.planes.detach().std()) - 0.1) < 0.005
    assert abs(float(encoding.lines.detach().std()) - 0.1) < 0.02


def test_first_and_second_derivatives(generator):
    encoding = TensorVM(3, resolution=3, n_components=2, generator=generator).double()
    x = torch.rand(3, 3, generator=generator, dtype=torch.float64).requires_grad_()

    def value(x, planes, lines):
        return torch.func.functional_call(encoding, {"planes": planes, "lines": lines}, (x,))

    assert torch.autograd.gradcheck(value, (x, encoding.planes, encoding.lines))
    assert torch.autograd.gradgradcheck(encoding, x)


def test_refuses_by_name_before_allocating():
    with pytest.raises(ValueError, match=r"^resolution: 16384 makes .* parameters"):
        TensorVM(3, resolution=2**14)
    with pytest.raises(ValueError, match=r"^n_input_dims: .* got 4"):
        TensorVM(4)
