"""Networks and encodings of many cells at once are the loop over them, whatever they are."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fieldforge.backends import use_backend
from fieldforge.fields.kinds.image import ImageField
from fieldforge.fields.partitions import batched
from fieldforge.fields.partitions.stacks import StackedEncoding, StackedNetwork
from fieldforge.registry import build

HOURGLASS = {
    "otype": "ResidualMLP",
    "n_neurons": 24,
    "n_inner": 6,
    "n_blocks": 2,
    "norm": "layer",
    "activation": "Sine",
}
FAN = {"otype": "FAN", "n_neurons": 8, "n_hidden_layers": 2}
KAN = {"otype": "KAN", "n_neurons": 5, "n_hidden_layers": 1}
WIRE = {"otype": "MLP", "n_neurons": 9, "n_hidden_layers": 2, "activation": "WIRE", "has_bias": True}
INJECTED = {"otype": "MLP", "n_neurons": 9, "n_hidden_layers": 3, "input_injection": "all"}
PINS = {"otype": "PINs", "n_neurons": 6, "n_levels": 2}
ROUNDED = {"otype": "MLP", "n_neurons": 8, "precision": "bfloat16"}
CENTERED = {"otype": "Identity", "scale": 2.0, "offset": -1.0}
FOURIER = {"otype": "RandomFourier", "n_features": 4, "sigma": 2.0}
GRID = {"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 5, "base_resolution": 2}
RAGGED = [3, 0, 17, 1, 0, 64, 40, 2, 300, 1, 33, 0]


def stacked(part: nn.Module, n: int) -> Any:
    """Each of n cells with numbers of its own; and the module with the axis more."""
    made = StackedEncoding(part, n) if hasattr(part, "domain") else StackedNetwork(part, n)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    assert made.one is not None
    return made


def network(config: Any, n_in: int = 3) -> nn.Module:
    order = {"channel_order": torch.arange(n_in)} if config["otype"] == "PINs" else {}
    made: nn.Module = build(
        "network", config, n_input_dims=n_in, n_output_dims=2, generator=torch.Generator().manual_seed(0), **order
    )
    return made


def encoding(config: Any) -> nn.Module:
    made: nn.Module = build("encoding", config, n_input_dims=3, generator=torch.Generator().manual_seed(0))
    return made


def answers(run: Any, one: nn.Module, rows: Tensor, counts: list[int]) -> list[Tensor]:
    """Value, and gradients of rows and of every parameter."""
    rows = rows.detach().requires_grad_()
    out = run(one, rows, torch.tensor([0, *counts]).cumsum(0))
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(5), dtype=out.dtype)
    return [out.detach(), *torch.autograd.grad(out, [rows, *one.parameters()], weight, materialize_grads=True)]


@pytest.mark.parametrize("make", [
    *[pytest.param(lambda c=c: network(c), id=c["otype"]) for c in (HOURGLASS, FAN, KAN, WIRE, INJECTED, PINS)],
    *[pytest.param(lambda c=c: encoding({"otype": c, "resolution": 8}), id=c) for c in ("TriPlane", "TensorVM")],
    pytest.param(lambda: encoding({"otype": "PREF", "resolution": 8}), id="PREF"),
    pytest.param(lambda: encoding(GRID), id="HashGrid"),
])  # fmt: skip
def test_many_cells_at_once_are_the_loop_over_them(make: Any) -> None:
    part = stacked(make(), len(RAGGED))
    assert batched.why_not_together(part.one, 3) == ""
    rows = torch.rand(sum(RAGGED), 3, generator=torch.Generator().manual_seed(2))
    with use_backend("reference"):
        value, *_ = answers(batched.one_by_one, part.one, rows, RAGGED)
    torch.testing.assert_close(answers(batched.together, part.one, rows, RAGGED)[0], value, rtol=1e-5, atol=1e-5)
    part, rows = part.double(), rows.double()
    with use_backend("reference"):
        expected = answers(batched.one_by_one, part.one, rows, RAGGED)
    for got, wanted in zip(answers(batched.together, part.one, rows, RAGGED), expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=1e-8, atol=1e-8)


def test_cells_without_points_and_no_points_at_all() -> None:
    part = stacked(network(FAN), 4)
    for counts in ([0, 0, 0, 0], [0, 0, 1, 0], [5, 0, 0, 0]):
        offsets = torch.tensor([0, *counts]).cumsum(0)
        out = part(torch.rand(sum(counts), 3), offsets)
        assert out.shape == (sum(counts), 2)
    with pytest.raises(ValueError, match="offsets"):
        part(torch.rand(3, 3), torch.tensor([0, 1, 1, 1, 2]))


def test_one_crowded_cell_is_not_filled_up_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that are run are at most twice those there are, also where all points are in one cell of many."""
    seen: list[int] = []
    run = batched._run

    def counted(one: nn.Module, parameters: Any, filled: Tensor) -> Tensor:
        seen.append(filled.shape[0] * filled.shape[1])
        return run(one, parameters, filled)

    monkeypatch.setattr(batched, "_run", counted)
    part = stacked(network(FAN), 500)
    generator = torch.Generator().manual_seed(0)
    for counts in (
        [20_000] + [0] * 499, [1] * 499 + [20_000], torch.randint(0, 60, (500,), generator=generator).tolist(),
        [2**i % 1023 for i in range(500)],
    ):  # fmt: skip
        seen.clear()
        n = sum(counts)
        with torch.no_grad():
            part(torch.zeros(n, 3), torch.tensor([0, *counts]).cumsum(0))
        assert n <= sum(seen) <= 2 * n
        assert max(seen) <= max(batched.ROWS_A_CALL, 20_000)


def test_a_point_that_is_no_number_stays_in_its_cell() -> None:
    part = stacked(network(FAN), 3)
    rows = torch.rand(11, 3, generator=torch.Generator().manual_seed(0))
    rows[4] = torch.nan
    out, _, *grads = answers(batched.together, part.one, rows, [4, 3, 4])
    assert out.isnan().any(1).nonzero().flatten().tolist() == [4]
    for grad in grads:
        assert grad[[0, 2]].isfinite().all()
    assert any(grad[1].isnan().any() for grad in grads)


def test_what_cannot_be_mapped_runs_cell_by_cell() -> None:
    part = stacked(network(ROUNDED), len(RAGGED))
    assert "cannot be mapped over cells" in batched.why_not_together(part.one, 3)
    rows, offsets = torch.rand(sum(RAGGED), 3), torch.tensor([0, *RAGGED]).cumsum(0)
    assert torch.equal(part(rows, offsets), batched.one_by_one(part.one, rows, offsets))


@pytest.mark.parametrize(("encoding", "network"), [
    (CENTERED, HOURGLASS), (FOURIER, KAN | {"normalization": "tanh"}), (FOURIER, FAN), (GRID, HOURGLASS),
    (GRID, {"otype": "MLP", "n_neurons": 8}), ({"otype": "Frequency", "n_frequencies": 3}, PINS),
])  # fmt: skip
def test_equal_numbers_everywhere_are_the_plain_network(encoding: Any, network: Any) -> None:
    """Any encoding and network; places in cells are rounded, so both are asked in float64."""
    field, alone = (
        ImageField(
            encoding=encoding, network=network, width=8, height=6, partition=partition,
            generator=torch.Generator().manual_seed(0),
        ).double()
        for partition in ({"otype": "UniformGrid", "resolution": [3, 4]}, None)
    )  # fmt: skip
    place = torch.rand(20, 2, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    expected = alone.outputs(place)
    corners = torch.cartesian_prod(torch.arange(3), torch.arange(4))
    unit = (corners[:, None] + place) / torch.tensor([3.0, 4.0], dtype=torch.float64)
    got = field.outputs(unit.flatten(0, 1)).view(12, 20, -1)
    torch.testing.assert_close(got, expected.expand(12, 20, -1), rtol=1e-5, atol=1e-5)


def test_second_derivatives_pass_through_many_cells() -> None:
    part = stacked(network(HOURGLASS), 4)
    rows = torch.rand(20, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    offsets = torch.tensor([0, 6, 6, 14, 20])
    found = []
    for run in (batched.one_by_one, batched.together):
        (slope,) = torch.autograd.grad(run(part.one, rows, offsets).sum(), rows, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), list(part.parameters())))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


def test_networks_that_change_in_a_fit_are_named() -> None:
    for config in (KAN | {"update_every": 10}, HOURGLASS | {"norm": "batch"}, PINS | {"progressive": True}):
        with pytest.raises(ValueError, match=r"cells cannot have|a cell may have none"):
            ImageField(
                encoding={"otype": "Frequency", "n_frequencies": 3}, network=config, width=4, height=4,
                partition="UniformGrid",
            )  # fmt: skip
