"""Fields of radiance with proposals."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fieldforge.contracts.field import check_field
from fieldforge.fields.kinds.proposal import DensityField, ProposalField
from fieldforge.registry import ConfigError, build

NETWORK = {"otype": "MLP", "n_neurons": 8, "n_hidden_layers": 1}
GRID = {"otype": "HashGrid", "n_levels": 2, "log2_hashmap_size": 6, "base_resolution": 4}
BOX: dict[str, Any] = {"low": [-3.0, 1.0, 0.25], "high": [1.0, 2.0, 4.0]}
FIELD = {"otype": "RadianceField", "encoding": GRID, "network": NETWORK, "rgb_network": NETWORK, "n_geometry": 5, **BOX}
DENSITY = {"otype": "DensityField", "encoding": GRID, "network": NETWORK, **BOX}


@pytest.mark.parametrize("space", ["Box", {"otype": "Contraction", "norm": "2"}])
def test_fields_with_proposals_keep_the_contract(space: Any) -> None:
    parts = [part | {"space": space} for part in (FIELD, DENSITY)]
    check_field(lambda: ProposalField(field=parts[0], proposals=parts))
    check_field(lambda: DensityField(encoding=GRID, network=NETWORK, space=space, **BOX))


def test_the_whole_looks_like_its_field() -> None:
    whole = ProposalField(field=FIELD, proposals=[DENSITY, FIELD])
    points, directions = torch.rand(2, 20, 3)
    points = 2 * points - torch.tensor([2.0, 0.0, 0.0])
    directions = torch.nn.functional.normalize(directions, dim=-1)
    assert torch.equal(whole.density(points), whole.field.density(points))
    for mine, other in zip(whole.radiance(points, directions), whole.field.radiance(points, directions), strict=True):
        assert torch.equal(mine, other)
    assert whole.box == whole.field.box
    assert not torch.equal(whole.proposals[1].density(points), whole.density(points))


def test_a_proposal_is_as_dense_as_a_field_with_its_network() -> None:
    """Per world unit, nothing outside."""
    proposal = build("field", DENSITY)
    field = build("field", FIELD | {"n_geometry": 1, "encoding": proposal.encoding, "network": proposal.network})
    points = 6 * torch.rand(50, 3) - 2
    assert torch.equal(proposal.density(points), field.density(points))
    assert (proposal.density(points) == 0).any()
    assert (proposal.density(points) > 0).any()


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"proposals": []}, "proposals: expected one field or more"),
        ({"field": DENSITY}, "field: expected a RadianceField, got a DensityField"),
        ({"proposals": [DENSITY | {"high": [1.0, 2.0, 5.0]}]}, r"proposals\[0\]: expected the field's box"),
        ({"proposals": [DENSITY, DENSITY | {"space": "Contraction"}]}, r"proposals\[1\]: expected the field's box"),
        ({"proposals": [{"otype": "ProposalField", "field": FIELD, "proposals": [DENSITY]}]}, r"proposals\[0\]: exp"),
        ({"proposals": [DENSITY | {"low": [2.0, 0.0, 0.0]}]}, r"proposals\[0\].high: expected each number above"),
    ],
)
def test_wrong_parts_are_refused_by_name(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("field", {"otype": "ProposalField", "field": FIELD, "proposals": [DENSITY]} | changed)
