"""Penalties on parameters: what encodings say of theirs, and what a run makes of it."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.fit.config import apply_overrides, validate
from fieldforge.apps.fit.regularizers import penalty, regularizers_of
from fieldforge.encodings.base import Encoding
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.registry import ConfigError, available, build

NETWORK = {"otype": "MLP", "n_neurons": 4, "n_hidden_layers": 1}
KNOWN: dict[str, tuple[dict[str, Any], tuple[str, ...]]] = {
    "TensorVM": ({"resolution": 4, "n_components": 2}, ("total_variation", "l1")),
    "TensorCP": ({"resolution": 4, "n_components": 2}, ("total_variation", "l1")),
    "TriPlane": ({"resolution": 4, "n_features": 2}, ("total_variation", "l1")),
    "KPlanes": ({"resolution": 3, "n_features": 2, "multiscale": [1, 2]}, ("total_variation",)),
    "DenseGrid": ({"n_levels": 2, "base_resolution": 3, "per_level_scale": 1.5}, ("total_variation",)),
    "PREF": ({"resolution": 4, "n_features": 2}, ("parseval",)),
    "HashGrid": ({"n_levels": 2, "log2_hashmap_size": 4}, ()),
    "Frequency": ({}, ()),
}


def made(name: str, generator: torch.Generator) -> Encoding:
    encoding: Encoding = build("encoding", {"otype": name, **KNOWN[name][0]}, n_input_dims=3, generator=generator)
    encoding = encoding.double()
    with torch.no_grad():
        for parameter in encoding.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return encoding


def tables(encoding: Any) -> list[tuple[np.ndarray[Any, Any], int]]:
    """Tables and the number of axes along which they vary, by hand."""
    if encoding.otype == "TensorVM":
        return [(plane, 2) for plane in encoding.planes.detach().numpy()]
    if encoding.otype == "TensorCP":
        return [(line, 1) for line in encoding.lines.detach().numpy()]
    if encoding.otype == "Grid":
        table, found = encoding.table.detach().numpy(), []
        for level in encoding.levels:
            n = level.resolution
            rows = table[level.offset : level.offset + n**3]
            lattice = np.zeros((n, n, n, rows.shape[-1]))
            for x, y, z in itertools.product(range(n), repeat=3):
                lattice[x, y, z] = rows[x + n * y + n * n * z]
            found.append((lattice, 3))
        return found
    return [(plane.detach().numpy(), 2) for plane in encoding.planes]


@pytest.mark.parametrize("name", KNOWN)
def test_penalties_are_the_sums_over_neighbours_and_entries(name: str, generator: torch.Generator) -> None:
    encoding = made(name, generator)
    known = encoding.penalties()
    assert tuple(known) == KNOWN[name][1]
    if "total_variation" in known:
        variation = 0.0
        for table, n_axes in tables(encoding):
            for axis in range(n_axes):
                moved = np.moveaxis(table, axis, 0)
                variation += np.mean([(b - a) ** 2 for a, b in itertools.pairwise(moved)])
        assert float(known["total_variation"]().detach()) == pytest.approx(variation)
    if "l1" in known:
        entries = sum(np.abs(one).mean() for p in encoding.parameters() for one in p.detach().numpy())
        assert float(known["l1"]().detach()) == pytest.approx(entries)
    for one in known.values():
        value = one()
        value.backward()
        assert value > 0
        assert any(p.grad is not None and p.grad.abs().max() > 0 for p in encoding.parameters())


def field(**keys: Any) -> RadianceField:
    given: dict[str, Any] = {"encoding": {"otype": "TensorVM", **KNOWN["TensorVM"][0]}, "network": NETWORK}
    return RadianceField(**given | {"rgb_network": NETWORK} | keys)


def test_they_are_weighted_added_and_counted_by_step() -> None:
    fitted = field(rgb_encoding={"otype": "PREF", **KNOWN["PREF"][0]})
    section = [
        {"otype": "L1", "weight": 2.0},
        {"otype": "TotalVariation", "weight": 3.0, "until": 5},
        {"otype": "Parseval", "weight": 4.0, "part": "rgb_encoding"},
    ]
    chosen = regularizers_of({"regularizers": section}, fitted)
    assert fitted.rgb_encoding is not None
    first, second = fitted.encoding.penalties(), fitted.rgb_encoding.penalties()
    always = 2 * first["l1"]() + 4 * second["parseval"]()
    torch.testing.assert_close(penalty(chosen, fitted, 5), always)
    torch.testing.assert_close(penalty(chosen, fitted, 4), always + 3 * first["total_variation"]())
    assert penalty([], fitted, 0) is None
    assert regularizers_of({}, fitted) == []


@pytest.mark.parametrize(
    ("one", "message"),
    [
        ({"otype": "L1"}, r"^regularizers\[0\].weight: L1 needs this key"),
        ({"otype": "L1", "weight": -1}, r"^regularizers\[0\].weight: expected a finite number of at least 0"),
        ({"otype": "L3", "weight": 1}, r"^regularizers\[0\].otype: no regularizer is called 'L3'"),
        ({"otype": "L1", "weight": 1, "part": "rgb_encoding"}, r"^regularizers\[0\].part: the field has no rgb_enc"),
        (
            {"otype": "Parseval", "weight": 1},
            r"^regularizers\[0\].otype: Parseval needs .* parseval, and TensorVM has total_variation, l1",
        ),
    ],
)
def test_what_cannot_be_had_is_refused_with_the_reason(one: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        regularizers_of({"regularizers": [one]}, field())
    with pytest.raises(ConfigError, match="L1 needs an encoding with l1, and Grid has none"):
        regularizers_of({"regularizers": [{"otype": "L1", "weight": 1.0}]}, field(encoding="HashGrid"))


def test_the_section_is_a_list_of_tables() -> None:
    config = apply_overrides({}, ['regularizers=[{otype="L1", weight=1e-4}]', "regularizers[0].until=10"])
    assert validate(config)[0] == {"regularizers": [{"otype": "L1", "weight": 1e-4, "until": 10}]}
    for wrong in ({"otype": "L1"}, "L1", 3, [{"otype": "L1"}] * 65):
        with pytest.raises(ConfigError, match=r"^regularizers: expected a list of at most 64 tables"):
            validate({"regularizers": wrong})
    with pytest.raises(ConfigError, match=r"^regularizers\[1\].wait: L1 has no such key; did you mean weight"):
        validate({"regularizers": [{"otype": "L1", "weight": 1.0}, {"otype": "L1", "wait": 1.0}]})


def test_all_of_them_are_here() -> None:
    assert available("regularizer") == ["L1", "Parseval", "TotalVariation", "ViewBranchNorm"]
