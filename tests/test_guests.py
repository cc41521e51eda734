"""tinycudann and nerfacc behind the backend cuda, against fakes of their documented interfaces (tests/fakes)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes import fake_nerfacc, fake_tinycudann

from fieldforge import backends
from fieldforge.encodings import on_tinycudann as grids
from fieldforge.encodings.grid import Grid, grid, grid_levels
from fieldforge.fields import on_tinycudann as fields
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels import guests
from fieldforge.kernels.cpu_marching import Walk
from fieldforge.renderers import on_nerfacc
from fieldforge.renderers.compositing import accumulate_plain, composite_plain
from fieldforge.renderers.marching import make_stride, march_rays
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.rays import intersect_box
from fieldforge.renderers.samples import Samples, row_offsets
from fieldforge.renderers.scans import segmented_scan

CUDA = torch.device("cuda")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Both packages are there, and a CUDA device seems to be."""
    for fake, name in ((fake_tinycudann, "tinycudann"), (fake_nerfacc, "nerfacc")):
        monkeypatch.setitem(sys.modules, name, fake)
        fake.calls.clear()
    monkeypatch.setattr(guests, "missing", lambda name: None)
    grids._encoding.cache_clear()
    fields._module.cache_clear()
    yield
    grids._encoding.cache_clear()
    fields._module.cache_clear()


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


GRIDS: list[tuple[int, dict[str, Any]]] = [
    (3, {"n_levels": 4, "log2_hashmap_size": 7, "base_resolution": 4, "per_level_scale": 1.5}),
    (2, {"type": "Dense", "n_levels": 3, "base_resolution": 4, "per_level_scale": 2.0}),
    (2, {"type": "Tiled", "n_levels": 3, "base_resolution": 4, "per_level_scale": 1.3}),
    (3, {"n_levels": 1, "log2_hashmap_size": 7, "base_resolution": 16}),
]


@pytest.mark.parametrize(("n_dims", "keys"), GRIDS)
def test_a_grid_by_tinycudann_is_the_grid(n_dims: int, keys: dict[str, Any], fakes: None) -> None:
    encoding = Grid(n_dims, **keys, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoding.table.copy_(drawn(*encoding.table.shape, seed=1))
    x, share = drawn(17, n_dims).requires_grad_(), drawn(17, encoding.n_output_dims, seed=2)
    rows = []
    for run in (grids.grid_by_tinycudann, grid):
        out = run(x, encoding.table, encoding.levels, "Linear")
        slope = torch.autograd.grad((out * share).sum(), (x, encoding.table), create_graph=True)
        second = torch.autograd.grad(slope[0].square().sum(), encoding.table)
        rows.append((out, *slope, *second))
    for one, other in zip(*rows, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert fake_tinycudann.calls == [f"Encoding (17, {n_dims}) {encoding.table.numel()}"]


def test_levels_that_no_configuration_says_are_left_to_the_reference(fakes: None) -> None:
    every = grid_levels(2, n_levels=4, log2_hashmap_size=10, base_resolution=4)
    odd = [every[0], every[1], replace(every[3], offset=every[2].offset)]
    assert grids.config_of(tuple(every), 2, 2, "Linear") is not None
    assert grids.config_of(tuple(odd), 2, 2, "Linear") is None
    x, table = drawn(5, 2), drawn(sum(level.size for level in odd), 2)
    assert torch.equal(grids.grid_by_tinycudann(x, table, odd, "Linear"), grid(x, table, odd, "Linear"))
    assert fake_tinycudann.calls == []


def field() -> tuple[Grid, MLP]:
    encoding = Grid(3, n_levels=4, log2_hashmap_size=8, base_resolution=4, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        encoding.table.copy_(drawn(*encoding.table.shape, seed=3))
    network = MLP(8, 3, n_neurons=16, n_hidden_layers=2, generator=torch.Generator().manual_seed(1))
    return encoding, network


def test_a_field_by_tinycudann_is_the_field_to_half_precision(fakes: None) -> None:
    encoding, network = field()
    x, share = drawn(9, 3).requires_grad_(), drawn(9, 3, seed=2)
    parameters = [x, encoding.table, *(layer.weight for layer in network.layers)]  # type: ignore[list-item]
    out = fields.field_by_tinycudann(encoding, network, x)
    expected = network(encoding(x))
    torch.testing.assert_close(out, expected, atol=5e-3, rtol=5e-3)
    found = torch.autograd.grad((out * share).sum(), parameters, retain_graph=True)
    for one, other in zip(found, torch.autograd.grad((expected * share).sum(), parameters), strict=True):
        assert float((one - other).norm() / other.norm()) < 1e-2
    slope = torch.autograd.grad((out * share).sum(), x, create_graph=True)[0]
    of_reference = torch.autograd.grad((network(encoding(x)) * share).sum(), x, create_graph=True)[0]
    for one, other in zip(
        torch.autograd.grad(slope.square().sum(), parameters[1:]),
        torch.autograd.grad(of_reference.square().sum(), parameters[1:]), strict=True,
    ):  # fmt: skip
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-3)
    n = 16 * 16 + 16 * 16 + 16 * 16 + encoding.table.numel()
    assert fake_tinycudann.calls[0] == f"NetworkWithInputEncoding (9, 3) {n}"


def test_half_precision_is_for_those_who_ask(fakes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    encoding, network = field()
    why = fields.refuses(encoding=encoding, network=network, x_dtype=torch.float32)
    assert why is not None
    assert "half precision" in why
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda *_: True)
    assert fields.refuses(encoding=encoding, network=network, x_dtype=torch.float32) is None
    biased = MLP(8, 3, n_neurons=16, n_hidden_layers=1, has_bias=True)
    assert "no biases" in str(fields.refuses(encoding=encoding, network=biased, x_dtype=torch.float32))


OFFSETS = row_offsets(torch.tensor([3, 0, 5, 1, 0]))


@pytest.mark.parametrize("kind", ["inclusive_sum", "exclusive_sum", "inclusive_prod", "exclusive_prod"])
def test_scans_by_nerfacc_are_the_scans(kind: str, fakes: None) -> None:
    values, share = (drawn(9) + 0.5).requires_grad_(), drawn(9, seed=1)
    rows = []
    for run in (on_nerfacc.scan_by_nerfacc, segmented_scan):
        out = run(values, OFFSETS, kind)
        slope = torch.autograd.grad((out * share).sum(), values, create_graph=True)[0]
        is_curved = kind.endswith("prod")
        rows.append((out, slope, *(torch.autograd.grad(slope.square().sum(), values) if is_curved else ())))
    for one, other in zip(*rows, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)
    assert kind in fake_nerfacc.calls


def samples() -> Samples:
    t0 = drawn(9, seed=4).cumsum(0)
    ray = torch.repeat_interleave(torch.arange(5), OFFSETS.diff())
    return Samples.trusted(t0, t0 + 0.3, ray, OFFSETS)


def test_compositing_by_nerfacc_is_compositing(fakes: None) -> None:
    density, color = (drawn(9, seed=5) * 5).requires_grad_(), drawn(9, 3, seed=6).requires_grad_()
    rows = []
    for run in (on_nerfacc.composite_by_nerfacc, composite_plain):
        seen = run(samples(), density, color)
        total = (seen.color * drawn(5, 3, seed=7)).sum() + (seen.depth * drawn(5, seed=8)).sum() + seen.opacity.sum()
        rows.append((*seen, *torch.autograd.grad(total, (density, color))))
    for one, other in zip(*rows, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


def test_sums_along_rays_by_nerfacc_are_the_sums(fakes: None) -> None:
    weights, values = drawn(9), drawn(9, 4, seed=1)
    found = on_nerfacc.accumulate_by_nerfacc(weights, values, OFFSETS)
    torch.testing.assert_close(found, accumulate_plain(weights, values, OFFSETS))


def test_marching_by_nerfacc_keeps_the_same_samples(fakes: None) -> None:
    cells = drawn(8, 8, 8, seed=1) < 0.4
    where = OccupancyGrid.from_cells(cells, (0, 0, 0), (1, 1, 1))
    origins = drawn(12, 3, seed=2) * 3 - 1
    directions = torch.nn.functional.normalize(0.5 - origins + 0.2 * drawn(12, 3, seed=3), dim=-1)
    origins[3] = torch.tensor([5.0, 5.0, 5.0])
    stride = make_stride(0.03, 0.0, float("inf"))
    start, end = intersect_box(origins, directions, (0, 0, 0), (1, 1, 1), 0.0, float("inf"))
    stride = replace(stride, n_most=80)
    grids = where.cascades, where.bricks, where.superbricks
    walk = Walk(origins, directions, start, end, *grids, stride, 1000, 10**6)
    found, expected = on_nerfacc.march_by_nerfacc(walk), march_rays(walk)
    assert not isinstance(found, int)
    assert not isinstance(expected, int)
    assert len(expected[0]) > 50
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    few, of_few = (march(walk._replace(n_most_kept=5)) for march in (on_nerfacc.march_by_nerfacc, march_rays))
    assert not isinstance(few, int)
    assert not isinstance(of_few, int)
    assert torch.equal(few[0], of_few[0])
    assert on_nerfacc.march_by_nerfacc(walk._replace(max_samples=20)) == len(expected[0])


def test_ours_goes_first_unless_a_guest_was_measured_to_be_faster(fakes: None) -> None:
    scan = on_nerfacc.scan_by_nerfacc
    asked: dict[str, Any] = {"dtypes": (torch.float32,)}
    makers = backends.makers("segmented_scan", "cuda")
    assert "nerfacc" in makers
    if makers == ["nerfacc"]:  # no kernel of ours yet
        assert backends.choose("segmented_scan", CUDA, **asked) is scan
    with backends.made_by("segmented_scan", "nerfacc"):
        assert backends.makers("segmented_scan", "cuda")[0] == "nerfacc"
    assert backends.makers("segmented_scan", "cuda") == makers


def test_what_a_guest_refuses_falls_to_the_reference(fakes: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(backends._implementations["segmented_scan"], "cuda", backends.Implementation(
        "segmented_scan", "cuda", segmented_scan, lambda: "not here", lambda **_: None, lambda: ""))  # fmt: skip
    assert backends.choose("segmented_scan", CUDA, dtypes=(torch.float64,)) is segmented_scan
    assert backends.choose("segmented_scan", CUDA, dtypes=(torch.float32,)) is on_nerfacc.scan_by_nerfacc


# ---- packages that do not load


BROKEN = {
    "absent": (None, "broken_guest is not installed"),
    "another card": (
        "raise EnvironmentError('Could not find compatible tinycudann extension for compute capability 90.')",
        "broken_guest does not load: OSError: Could not find compatible tinycudann extension for compute capability",
    ),
    "another torch": ("raise ImportError('undefined symbol:\\n _ZN3c10')",
                      "broken_guest does not load: ImportError: undefined symbol: _ZN3c10"),
    "anything": ("raise RuntimeError()", "broken_guest does not load: RuntimeError: "),
    "exit": ("import sys; sys.exit(3)", "broken_guest does not load: SystemExit: 3"),
    "syntax": ("def", "broken_guest does not load: SyntaxError: invalid syntax"),
}  # fmt: skip


@pytest.mark.parametrize("what", BROKEN)
def test_a_package_that_does_not_load_is_one_line(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, said = BROKEN[what]
    if source is not None:
        (tmp_path / "broken_guest.py").write_text(source + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    guests.missing.cache_clear()
    found = guests.missing("broken_guest")
    guests.missing.cache_clear()
    assert found is not None
    assert "\n" not in found
    assert found.startswith(said)


def test_an_uncompiled_nerfacc_is_not_asked_to_compile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nerfacc").mkdir()
    (tmp_path / "nerfacc" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "nerfacc", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    guests.missing.cache_clear()
    found = guests.missing("nerfacc")
    guests.missing.cache_clear()
    assert found is not None
    assert "without its compiled part" in found


def test_the_doctor_says_why_in_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from fieldforge.apps import doctor

    monkeypatch.setattr(doctor.guests, "missing", lambda name: f"{name} does not load: OSError: another card")
    monkeypatch.setattr(doctor, "_version", lambda name: "1.0")
    monkeypatch.setenv("COLUMNS", "200")
    assert doctor.main() == 0
    out = capsys.readouterr().out
    assert "tinycudann does not load: OSError: another card" in out
    assert "nerfacc does not load: OSError: another card" in out
