"""Files of models of weights: every bit comes back, and no file does more than raise one clear sentence."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from reference.field_file import mutations, parse, seal

from fieldforge.fields.container import FieldFileError
from fieldforge.fields.file import build_field, load_field
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.model_file import ModelFileError, load_model, read_model_header, save_model
from fieldforge.registry import available, build, find

CONFIG = {
    "otype": "ImageField", "width": 8, "height": 8, "n_channels": 1,
    "encoding": {"otype": "Identity"}, "network": {"otype": "MLP", "n_neurons": 6, "n_hidden_layers": 2,
                                                   "activation": "Sine", "has_bias": True},
}  # fmt: skip
FIELD = build_field(CONFIG)
LAYOUT = Layout.of(FIELD.state_dict())
OTHER = Layout.from_json([["network.layers.0.weight", [7, 2]], ["network.layers.0.bias", [7]]])
VECTORS = torch.randn(20, LAYOUT.n_parameters, generator=torch.Generator().manual_seed(0))
SMALL: dict[str, dict[str, Any]] = {
    "WeightDiffusion": {"denoiser": {"otype": "TokenTransformer", "width": 8, "n_layers": 1, "n_heads": 2}},
    "PCAGaussian": {"n_components": 3},
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def generator(name: str) -> Any:
    """A fitted one."""
    model = build("generator", {"otype": name, **SMALL.get(name, {})}, layout=LAYOUT, generator=seeded())
    model.fit(VECTORS)
    return model


@pytest.mark.parametrize("name", available("generator"))
def test_a_loaded_generator_makes_the_same_samples(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gen"
    model = generator(name)
    n_bytes = save_model(path, model, field=FIELD.config(), metadata={"collection": {"name": "digits"}})
    found = load_model(path, layout=LAYOUT)
    assert n_bytes == path.stat().st_size == found.n_bytes
    assert found.metadata == {"collection": {"name": "digits"}}
    expected = model.sample(5, generator=seeded(1))
    assert torch.equal(found.model.sample(5, generator=seeded(1)), expected)
    field = found.field(expected[0])
    assert torch.equal(LAYOUT.flatten(field.state_dict()), expected[0])
    assert field.config() == FIELD.config()


@pytest.mark.parametrize("name", available("weight_network"))
def test_any_network_on_weights_comes_back(name: str, tmp_path: Path) -> None:
    if name == "ChannelTransformer":
        planes = {**CONFIG, "otype": "OccupancyField", "encoding": {"otype": "TriPlane", "resolution": 8}}
        for key in ("width", "height", "n_channels"):
            del planes[key]
        layout = Layout.of(build_field(planes).state_dict())
        options: dict[str, Any] = {"width": 8, "n_layers": 1, "n_heads": 2}
    else:
        layout = LAYOUT
        small = {"n_channels": 4, "n_layers": 1, "n_heads": 2, "n_hidden_layers": 1, "widths": [8], "row_widths": [8],
                 "n_embedding": 6, "n_node_channels": 4, "n_edge_channels": 4}  # fmt: skip
        options = {key: value for key, value in small.items() if key in find("weight_network", name).options()}
    model = build("weight_network", {"otype": name, **options}, layout=layout, n_output_dims=3, generator=seeded())
    given = torch.randn(4, layout.n_parameters, generator=seeded(1))
    model.fit(given)
    model.train()(given)  # statistics of batch normalisation are numbers of the state
    path, beside = tmp_path / "a.network", {"decoder.weight": torch.randn(3, 2)}
    save_model(path, model, slot="weight_network", beside=beside)
    found = load_model(path, "weight_network")
    assert torch.equal(found.model(given), model.eval()(given))
    assert found.n_output_dims == 3
    assert torch.equal(found.beside["decoder.weight"], beside["decoder.weight"])


def test_a_model_of_another_architecture_is_refused_with_both_named(tmp_path: Path) -> None:
    path = tmp_path / "a.gen"
    save_model(path, generator("Gaussian"))
    expected = r"67 numbers \(network.layers.0.weight \[6, 2\].*, but digits/ has 21 numbers .*\[7, 2\]"
    with pytest.raises(ModelFileError, match=expected):
        load_model(path, layout=OTHER, whose="digits/")


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.gen"
    save_model(path, generator("Gaussian"))
    with pytest.raises(ModelFileError, match="holds a generator of weights, not a network on weights"):
        load_model(path, "weight_network")
    with pytest.raises(FieldFileError, match="is a model, not a finished field"):
        load_field(path)


def test_nothing_is_written_that_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.gen"
    model = generator("Gaussian")
    with pytest.raises(ValueError, match="field: expected the configuration of fields of 67 numbers"):
        save_model(path, model, field={**CONFIG, "network": {"otype": "MLP", "n_neurons": 7}})
    model.mean[3] = torch.nan
    with pytest.raises(ValueError, match="mean: holds numbers that are not finite"):
        save_model(path, model)
    assert not path.exists()


def test_a_model_without_fields_makes_none(tmp_path: Path) -> None:
    path = tmp_path / "a.gen"
    save_model(path, generator("Subset"))
    found = load_model(path)
    with pytest.raises(ModelFileError, match="does not say of which fields"):
        found.field(VECTORS[0])


# ------------------------------------------------------------------------------------------------ hostile files


def valid(path: Path, name: str) -> bytes:
    save_model(path, generator(name), field=FIELD.config(), metadata={"history": [{"step": 1, "loss": 0.5}]})
    return path.read_bytes()


@pytest.mark.parametrize("name", ["WeightDiffusion", "Jitter"])
def test_mutations_give_a_model_or_a_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "mutated.gen"
    said = set()
    for what, raw in mutations(valid(path, name), 3, 150):
        path.write_bytes(raw)
        start = time.process_time()
        try:
            load_model(path)
        except FieldFileError as error:
            message = str(error)
            assert message.startswith(str(path)), what
            assert message.isprintable(), what
            assert len(message) < 1000, what
            said.add(" ".join(message.removeprefix(f"{path}: ").split()[:3]))
        assert time.process_time() - start < 1.0, what
    assert len(said) > 8, f"the mutations reach few of the checks: {said}"


ATTACKS: dict[str, tuple[str, tuple[str, ...], Any]] = {
    "layers": ("n_layers: expected an integer from 1 to", ("config", "denoiser", "n_layers"), 10**9),
    "width": (r"is F32|overflow", ("config", "denoiser", "width"), 2**30),
    "steps": ("n_steps", ("config", "noise", "n_steps"), 10**12),
    "class": ("no generator is called", ("config", "otype"), "os.system"),
    "slot": ("holds a network on weights", ("slot",), "weight_network"),
    "field": ("another layout", ("field", "network", "n_neurons"), 7),
    "large field": ("cannot be loaded", ("field", "network", "n_neurons"), 10**9),
    "layout": ("has no layout", ("layout",), [["a", [2**40]]]),
    "other layout": ("cannot be loaded", ("layout",), [["a", [2**29]]]),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_header_is_refused_by_name(attack: str, tmp_path: Path) -> None:
    expected, keys, value = ATTACKS[attack]
    path = tmp_path / "hostile.gen"
    inner, table, data = parse(valid(path, "WeightDiffusion"))
    where = inner
    for key in keys[:-1]:
        where = where[key]
    where[keys[-1]] = value
    path.write_bytes(seal(inner, table, data))
    with pytest.raises(FieldFileError, match=expected):
        load_model(path)
    if keys[0] != "layout":
        read_model_header(path)


def test_a_part_that_is_no_model_of_weights_is_not_built(tmp_path: Path) -> None:
    path = tmp_path / "hostile.gen"
    inner, table, data = parse(valid(path, "Gaussian"))
    inner["slot"], inner["config"] = "optimizer", {"otype": "Adam"}
    path.write_bytes(seal(inner, table, data))
    with pytest.raises(FieldFileError, match="optimizer is no model of weights"):
        load_model(path, "optimizer")
