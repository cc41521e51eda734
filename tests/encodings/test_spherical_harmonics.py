import math

import numpy as np
import pytest
import torch
from reference.encodings import spherical_harmonics

from fieldforge.encodings.spherical_harmonics import SphericalHarmonics, harmonics


def directions(n, generator):
    v = torch.randn(n, 3, generator=generator, dtype=torch.float64)
    return v / v.norm(dim=-1, keepdim=True)


def test_equals_the_sum_over_powers_in_float64(generator):
    v = directions(30, generator)
    expected = torch.tensor([spherical_harmonics(one, 8) for one in v.tolist()], dtype=torch.float64)
    torch.testing.assert_close(SphericalHarmonics(3, degree=8)((v + 1) / 2), expected, rtol=0, atol=1e-12)


def test_equals_scipy(generator):
    special = pytest.importorskip("scipy.special")
    if not hasattr(special, "sph_harm_y"):
        pytest.skip("this scipy has no sph_harm_y")
    v = directions(40, generator).numpy()
    theta, phi = np.arccos(v[:, 2]), np.arctan2(v[:, 1], v[:, 0])
    ours = torch.stack(harmonics(torch.from_numpy(v), 8), -1).numpy()
    for band in range(8):
        for m in range(band + 1):  # scipy's complex harmonics carry the Condon-Shortley phase
            theirs = special.sph_harm_y(band, m, theta, phi) * (math.sqrt(2) if m else 1)
            center = band * band + band
            np.testing.assert_allclose(ours[:, center + m], theirs.real, atol=1e-12)
            if m:
                np.testing.assert_allclose(ours[:, center - m], theirs.imag, atol=1e-12)


def test_orthonormal_by_quadrature():
    z, weight = np.polynomial.legendre.leggauss(8)  # exact to degree 15 in z; 16 angles to order 15
    z, weight = torch.from_numpy(z), torch.from_numpy(weight)
    phi = torch.arange(16, dtype=torch.float64) * (2 * math.pi / 16)
    radius = (1 - z**2).sqrt()[:, None]
    v = torch.stack((radius * phi.cos(), radius * phi.sin(), z[:, None].expand(8, 16)), -1)
    y = SphericalHarmonics(3, degree=8)((v + 1) / 2)
    gram = torch.einsum("z,zpi,zpj->ij", weight, y, y) * (2 * math.pi / 16)
    torch.testing.assert_close(gram, torch.eye(64, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_first_bands_in_the_signs_of_tiny_cuda_nn():
    x, y, z = v = torch.tensor([0.48, 0.6, 0.64], dtype=torch.float64)
    band = [1 / (2 * math.sqrt(math.pi))]
    band += [math.sqrt(3 / (4 * math.pi)) * value for value in (-y, z, -x)]
    root = math.sqrt(15 / (4 * math.pi))
    band += [root * x * y, -root * y * z, math.sqrt(5 / (16 * math.pi)) * (3 * z * z - 1), -root * x * z]
    band += [root / 2 * (x * x - y * y)]
    expected = torch.tensor([float(value) for value in band], dtype=torch.float64)
    torch.testing.assert_close(SphericalHarmonics(3, degree=3)((v + 1) / 2), expected)


def test_the_code_of_every_direction_is_equally_long(generator):
    code = SphericalHarmonics(3, degree=5)((directions(50, generator) + 1) / 2)
    torch.testing.assert_close(code.square().sum(-1), torch.full((50,), 25 / (4 * math.pi), dtype=torch.float64))


def test_a_rotation_about_z_turns_only_the_pairs_of_equal_m(generator):
    v, turn = directions(10, generator), 0.7
    c, s = math.cos(turn), math.sin(turn)
    rotated = torch.stack((c * v[:, 0] - s * v[:, 1], s * v[:, 0] + c * v[:, 1], v[:, 2]), -1)
    before, after = harmonics(v, 4), harmonics(rotated, 4)
    for band in range(4):
        for m in range(1, band + 1):
            even, odd = band * band + band + m, band * band + band - m
            expected = math.cos(m * turn) * before[even] - math.sin(m * turn) * before[odd]
            torch.testing.assert_close(after[even], expected)


def test_fewer_degrees_are_the_beginning_of_more(generator):
    x = torch.rand(5, 3, generator=generator)
    assert torch.equal(SphericalHarmonics(3, degree=3)(x), SphericalHarmonics(3, degree=7)(x)[:, :9])
    assert SphericalHarmonics(3, degree=3).channel_order().tolist() == [0, 1, 1, 1, 2, 2, 2, 2, 2]


def test_first_and_second_derivatives_also_at_the_poles(generator):
    x = torch.rand(3, 3, generator=generator, dtype=torch.float64)
    poles = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 1.0]], dtype=torch.float64)
    x = torch.cat((x, poles)).requires_grad_()
    encoding = SphericalHarmonics(3, degree=4)
    assert torch.autograd.gradcheck(encoding, x)
    assert torch.autograd.gradgradcheck(encoding, x)


def test_refuses_other_dimensions_and_degrees():
    with pytest.raises(ValueError, match=r"^n_input_dims: .* got 2"):
        SphericalHarmonics(2)
    with pytest.raises(ValueError, match=r"^degree: expected an integer from 1 to 8, got 9"):
        SphericalHarmonics(3, degree=9)
