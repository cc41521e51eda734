"""Run configurations: the dialects load and build, overrides, and nothing but ConfigError comes of bad files."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldforge.apps.fit.config import (
    DEEPEST,
    MOST_BYTES,
    VOCABULARY,
    apply_overrides,
    load_config,
    read_run,
    validate,
)
from fieldforge.apps.fit.optimizers import Parameters
from fieldforge.registry import ConfigError, build, find

CONFIGS = Path(__file__).resolve().parents[2] / "data" / "configs" / "tcnn"

RUN = """
[encoding]
otype = "HashGrid"
n_levels = 3
log2_hashmap_size = 8

[network]
otype = "MLP"
n_neurons = 8
activation = { otype = "Sine", omega = 12.0 }

[loss]
otype = "Huber"

[optimizer]
otype = "EMA"
nested = { otype = "Adam", learning_rate = 1e-2 }

[schedule]
otype = "Warmup"
nested = { otype = "Cosine" }
"""


def written(folder: Path, text: str | bytes, name: str = "run.toml") -> Path:
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


# --- the dialects ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["curve_oneblob", "image_hash", "scene_base", "scene_frequency"])
def test_a_file_of_tiny_cuda_nn_builds_and_takes_a_step(name: str) -> None:
    config, _ = read_run(CONFIGS / f"{name}.json")
    n_dims = 3 if "scene" in name else 2
    encoding = build("encoding", config["encoding"], path="encoding", n_input_dims=n_dims)
    sizes = {"n_input_dims": encoding.n_output_dims, "n_output_dims": 3}
    network = build("network", config["network"], path="network", **sizes)
    parameters = Parameters(matrix=list(network.parameters()), other=list(encoding.parameters()))
    optimizer = build("optimizer", config["optimizer"], path="optimizer", parameters=parameters)
    loss = build("loss", config["loss"], path="loss")
    before = [parameter.detach().clone() for parameter in parameters]
    prediction = network(encoding(torch.rand(64, n_dims, generator=torch.Generator().manual_seed(0))))
    loss(prediction, torch.full((64, 3), 0.7)).backward()
    optimizer.step()
    assert not any(torch.equal(old, new) for old, new in zip(before, parameters, strict=True))


def test_what_a_file_leaves_out_is_tiny_cuda_nns_default_with_a_notice() -> None:
    config, notices = read_run(CONFIGS / "image_hash.json")
    assert config["loss"] == {"otype": "RelativeL2"}
    assert notices == ["loss.otype: not given, so it is RelativeL2, as in tiny-cuda-nn."]


def test_keys_that_tiny_cuda_nn_ignores_are_dropped_with_a_notice() -> None:
    config, notices = read_run(CONFIGS / "scene_base.json")
    sphere, rest = config["dir_encoding"]["nested"]
    assert sphere == {"otype": "SphericalHarmonics", "degree": 3, "n_dims_to_encode": 3}
    assert rest == {"otype": "Identity"}
    assert config["envmap"]["optimizer"] == {"otype": "Adam", "learning_rate": 0.03}
    assert notices == [
        "dir_encoding.nested[0]: n_bins is no key of SphericalHarmonics and was dropped; tiny-cuda-nn ignores it too.",
        "envmap.optimizer: identity, beta_shampoo are no keys of Adam and were dropped; tiny-cuda-nn ignores them too.",
    ]


def test_a_child_overrides_its_parent_key_by_key() -> None:
    base, child = load_config(CONFIGS / "scene_base.json"), load_config(CONFIGS / "scene_frequency.json")
    assert child["optimizer"]["nested"]["nested"] == {"otype": "Adam", "learning_rate": 0.001, "epsilon": 1e-12}
    assert child["optimizer"]["decay"] == base["optimizer"]["decay"]
    assert child["encoding"]["n_levels"] == 4  # left over from the grid, as in instant-ngp
    assert "distortion_map" not in child
    assert "parent" not in child
    config, notices = read_run(CONFIGS / "scene_frequency.json")
    assert config["encoding"] == {"otype": "Frequency", "n_frequencies": 6}
    assert "encoding: n_levels, n_features_per_level, log2_hashmap_size, base_resolution are no keys" in notices[0]


TCNN_KEYS = {
    ("encoding", "Composite"): "nested reduction",
    ("encoding", "Frequency"): "n_frequencies",
    ("encoding", "HashGrid"): "type n_levels n_features_per_level log2_hashmap_size base_resolution per_level_scale "
    "interpolation hash stochastic_interpolation fixed_point_pos",
    ("encoding", "Identity"): "scale offset",
    ("encoding", "OneBlob"): "n_bins",
    ("encoding", "SphericalHarmonics"): "degree",
    ("encoding", "TriangleWave"): "n_frequencies",
    ("encoding", "OneBlobFrequency"): "n_frequencies n_bins",
    ("network", "FullyFusedMLP"): "n_neurons n_hidden_layers activation output_activation",
    ("network", "CutlassMLP"): "n_neurons n_hidden_layers activation output_activation",
    ("optimizer", "Adam"): "learning_rate beta1 beta2 epsilon l2_reg relative_decay absolute_decay adabound "
    "clipping_magnitude gradient_clipping_magnitude non_matrix_learning_rate_factor non_matrix_l2_reg "
    "optimize_matrix_params optimize_non_matrix_params skip_zero_grad_non_matrix_params",
    ("optimizer", "SGD"): "learning_rate l2_reg",
    ("optimizer", "Novograd"): "learning_rate beta1 beta2 epsilon relative_decay absolute_decay",
    ("optimizer", "Shampoo"): "learning_rate beta1 beta2 beta3 beta_shampoo epsilon identity cg_on_momentum l2_reg "
    "relative_decay absolute_decay frobenius_normalization",
    ("optimizer", "EMA"): "decay full_precision nested",
    ("optimizer", "Average"): "n_samples nested",
    ("optimizer", "Batched"): "batch_size_multiplier nested",
    ("optimizer", "ExponentialDecay"): "decay_base decay_start decay_end decay_interval nested",
    ("optimizer", "Lookahead"): "alpha n_steps nested",
    ("optimizer", "Composite"): "nested",
}


@pytest.mark.parametrize(("part", "keys"), TCNN_KEYS.items(), ids=lambda x: x[1] if isinstance(x, tuple) else "")
def test_no_key_that_tiny_cuda_nn_reads_could_be_dropped(part: tuple[str, str], keys: str) -> None:
    ours = find(*part).options()
    assert set(keys.split()) <= set(ours)
    assert set(keys.split()) <= VOCABULARY


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"encoding": {"otype": "Takikawa", "n_levels": 10}}', r"encoding\.otype: no encoding is called 'Takikawa'"),
        ('{"encoding": {"otype": "HashGrid", "n_features": 32}}', r"encoding\.n_features: .*give n_levels and"),
        ('{"encoding": {"otype": "HashGrid", "n_level": 8}}', r"encoding\.n_level: .*did you mean n_levels\?"),
        ('{"encodings": {"otype": "HashGrid"}}', r"encodings: there is no such section; did you mean encoding\?"),
        ('{"optimizer": {"otype": "EMA", "nested": {"otype": "Adam", "beta1": "x"}}}', r"optimizer\.nested\.beta1: "),
        ('{"envmap": {"optimiser": {}}}', r"envmap\.optimiser: .*did you mean optimizer\?"),
        ('{"envmap": 3}', "envmap: expected a table, got 3"),
        ('{"encoding": 3}', "encoding: expected a table"),
        ('{"encoding": {"otype": 3}}', r"encoding\.otype: expected the name"),
        (
            '{"encoding": {"otype": "Composite", "nested": [{"otype": "Identity"}, {"otype": "OneBlob", "n_bin": 3}]}}',
            r"encoding\.nested\[1\]\.n_bin: .*did you mean n_bins\?",
        ),
        ('{"network": {"otype": "MLP", "activation": "ReLo"}}', r"network\.activation\.otype: .*did you mean ReLU\?"),
    ],
)
def test_what_nobody_knows_is_refused_with_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_run(written(tmp_path, text, "run.json"))


def test_a_toml_run_file_is_held_to_its_keys(tmp_path: Path) -> None:
    path = written(tmp_path, RUN)
    config, notices = read_run(path)
    assert notices == []
    assert config == load_config(path)
    with pytest.raises(ConfigError, match=r"encoding\.n_bins: HashGrid has no such key"):
        read_run(written(tmp_path, RUN.replace("n_levels", "n_bins")))
    with pytest.raises(ConfigError, match=r"loss\.otype: expected the name of a loss"):
        read_run(written(tmp_path, RUN.replace('otype = "Huber"', "delta = 0.1")))
    with pytest.raises(ConfigError, match=r"schedule\.nested\.final: Cosine has no such key"):
        read_run(written(tmp_path, RUN.replace('"Cosine"', '"Cosine", final = 1.0')))
    with pytest.raises(ConfigError, match="parent: there is no such section"):
        read_run(written(tmp_path, 'parent = "run.toml"\n' + RUN))


def test_further_sections_are_the_callers() -> None:
    config: dict[str, Any] = {"fit": {"anything": object()}}
    assert validate(config, extra=("fit",)) == (config, [])
    with pytest.raises(ConfigError, match=r"fitt: .*did you mean fit\?"):
        validate({"fitt": {}}, extra=("fit",))


# --- files ----------------------------------------------------------------------------------------------------------


def test_comments_and_trailing_commas_leave_strings_alone(tmp_path: Path) -> None:
    text = r"""/* one
    two */ { "a//b": "/* kept, */ ,]", // "gone": 1
    "c" : [1, 2, /* three */ ] , "d\"": "\\",
    }"""
    assert load_config(written(tmp_path, text, "a.json")) == {"a//b": "/* kept, */ ,]", "c": [1, 2], 'd"': "\\"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", '{"a": 1\n  "b": 2}', "line 2 column 3"),
        ("a.json", '/* a\nb */ {"a": 1\n  "b": 2}', "line 3 column 3"),
        ("a.json", '{"a": "x', "line 1: a string is not closed"),
        ("a.json", '{\n\n/* "a"', "line 3: a comment is not closed"),
        ("a.json", '{"a": 1, "a": 2}', "the key 'a' stands twice"),
        ("a.json", '{"a": NaN}', "NaN is not a number"),
        ("a.json", "[1, 2]", "expected a table of sections, got list"),
        ("a.json", ",", "line 1 column 1"),
        ("a.json", '{"a": [1,,]}', "line 1"),
        ("a.json", '{"a": ' + "[" * 100_000, "nested too deep|line 1"),
        ("a.json", '{"a": ' + "[" * 40 + "]" * 40 + "}", "nested deeper than 32"),
        ("a.json", '{"a\\u0000": 1}', "cannot be printed"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "digits"),
        ("a.json", b'{"a": "\xff"}', "not UTF-8"),
        ("a.toml", "a = [" * 100_000, "nested too deep|Invalid"),
        ("a.toml", "a = " + "[" * 100_000, "nested too deep"),
        ("a.toml", ".".join("a" * 200_000) + " = 1", "a key is nested deeper"),
        ("a.toml", "b = { " + " . ".join(['"a"'] * 50_000) + " = 1 }", "a key is nested deeper"),
        ("a.toml", "[encoding]\notype = \n", "line 2"),
        ("a.toml", b"\xff\xfe", "not UTF-8"),
        ("a.toml", b"#" * (MOST_BYTES + 1), "larger than a configuration may be"),
        ("a.yaml", "a: 1", "expected a .toml or .json file"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, name: str, content: str | bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(written(tmp_path, content, name))
    assert str(caught.value).startswith(str(tmp_path / name))


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path / "none.json", tmp_path / "folder.json", tmp_path / "nul\0.json"):
        if path.name == "folder.json":
            path.mkdir()
        with pytest.raises(ConfigError, match=r"no such file|cannot be read"):
            load_config(path)


def test_a_byte_order_mark_is_no_error(tmp_path: Path) -> None:
    assert load_config(written(tmp_path, b'\xef\xbb\xbf{"a": 1}', "a.json")) == {"a": 1}


@pytest.mark.parametrize(
    "parent", ["../a.json", "/etc/a.json", "sub/a.json", "..", ".a.json", "a.toml", "", 3, ["a.json"]]
)
def test_a_parent_lies_in_the_same_folder(tmp_path: Path, parent: object) -> None:
    with pytest.raises(ConfigError, match=r"parent: expected the name of a \.json file in the same folder"):
        load_config(written(tmp_path, json.dumps({"parent": parent}), "child.json"))


def test_parents_in_a_circle_or_without_end_are_refused(tmp_path: Path) -> None:
    written(tmp_path, '{"parent": "b.json"}', "a.json")
    written(tmp_path, '{"parent": "a.json"}', "b.json")
    with pytest.raises(ConfigError, match=r"a cycle: a\.json -> b\.json -> a\.json"):
        load_config(tmp_path / "a.json")
    for i in range(20):
        written(tmp_path, json.dumps({"parent": f"{i + 1}.json"}), f"{i}.json")
    with pytest.raises(ConfigError, match="too long a chain"):
        load_config(tmp_path / "0.json")
    with pytest.raises(ConfigError, match=r"20\.json: there is no such file"):
        load_config(tmp_path / "15.json")


# --- overrides ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.b=12", 12),
        ("a.b = 1e-2", 0.01),
        ("a.b=true", True),
        ("a.b=Tanh", "Tanh"),
        ("a.b=runs/one-two.json", "runs/one-two.json"),
        ('a.b="with spaces = and [brackets]"', "with spaces = and [brackets]"),
        ("a.b=[1, 2.5]", [1, 2.5]),
        ('a.b={ otype = "Sine", omega = 30 }', {"otype": "Sine", "omega": 30}),
        ("a.b=2024-01-01", "2024-01-01"),
    ],
)
def test_values_are_toml_and_bare_words_are_strings(text: str, expected: object) -> None:
    assert apply_overrides({"a": {"b": None}}, [text]) == {"a": {"b": expected}}


def test_overrides_reach_into_lists_and_leave_the_original_alone() -> None:
    config = {"encoding": {"otype": "Composite", "nested": [{"otype": "Identity"}, "OneBlob"]}}
    changed = apply_overrides(config, ["encoding.nested[0].scale=3", "encoding.nested[1].n_bins=4"])
    assert changed["encoding"]["nested"] == [{"otype": "Identity", "scale": 3}, {"otype": "OneBlob", "n_bins": 4}]
    assert config == {"encoding": {"otype": "Composite", "nested": [{"otype": "Identity"}, "OneBlob"]}}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("encoding.n_levels", "expected section.key=value"),
        ("=3", "expected section.key=value"),
        ("encoding..x=3", "expected section.key=value"),
        ("encoding.n_levels.x=3", r"encoding\.n_levels\.x: encoding\.n_levels is no table"),
        ("encoding[0]=3", r"encoding\[0\]: encoding is no list"),
        ("encoding.parts[7].x=3", r"encoding\.parts\[7\]: the list has 1 entries"),
        ("encoding.parts.x=3", r"encoding\.parts\.x: encoding\.parts is no table"),
        ("encoding.n_levels=", "encoding.n_levels: cannot read the value"),
        ("encoding.n_levels=[1", "encoding.n_levels: cannot read the value"),
        ("encoding.n_levels='a\nb = 2", "encoding.n_levels: cannot read the value"),
        (".".join("a" * 40) + "=1", "deeper than 32"),
        ("a=" + "[" * 33 + "]" * 33, "nested deeper than 32"),
        ("a=" + "[" * 50_000, "cannot read the value"),
    ],
)
def test_a_bad_override_is_refused(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        apply_overrides({"encoding": {"n_levels": 3, "parts": [{}]}}, [text])


def test_overrides_go_through_the_same_check_also_for_json() -> None:
    path = CONFIGS / "image_hash.json"
    config, notices = read_run(path, ["encoding.n_levels=12", "network.activation=Tanh"])
    assert (config["encoding"]["n_levels"], config["network"]["activation"]) == (12, "Tanh")
    assert notices
    with pytest.raises(ConfigError, match=r"encoding\.n_bins: HashGrid has no such key"):
        read_run(path, ["encoding.n_bins=12"])
    with pytest.raises(ConfigError, match=r"encoding\.n_levels: expected an integer, got '\.5'"):
        read_run(path, ["encoding.n_levels=.5"])


# --- anything at all ------------------------------------------------------------------------------------------------

SOURCES = [(path.name, path.read_bytes()) for path in sorted(CONFIGS.glob("*.json"))] + [("run.toml", RUN.encode())]


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """A good file with pieces cut out, doubled, or put in."""
    name, content = draw(st.sampled_from(SOURCES))
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        end = min(len(content), at + draw(st.integers(0, 30)))
        crumb = st.sampled_from(
            [b'"', b"{", b"}", b"[", b"]", b",", b"//", b"/*", b"null", b"1e999", b"\\u0000", b"\n"]
        )
        piece = draw(st.one_of(st.just(b""), st.just(content[at:end] * 2), crumb, st.binary(max_size=4)))
        content = content[:at] + piece + content[end:]
    return name, content


@settings(
    max_examples=250, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(file=mutated())
def test_nothing_but_config_errors_comes_of_mutated_files(tmp_path: Path, file: tuple[str, bytes]) -> None:
    (tmp_path / "scene_base.json").write_bytes((CONFIGS / "scene_base.json").read_bytes())
    path = written(tmp_path, file[1], f"mutated_{file[0]}")
    with suppress(ConfigError):
        config, _ = read_run(path)
        assert validate(config) == (config, [])  # what was let through once is let through again, unchanged


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=st.one_of(st.text(max_size=20), st.from_regex(r"[a-z]{1,3}([.\[][a-z0-9\]]{0,3}){0,3}=.{0,6}")))
def test_nothing_but_config_errors_comes_of_overrides(text: str) -> None:
    before: dict[str, Any] = {"a": {"b": [{"c": 1}]}, "b": "word"}
    with suppress(ConfigError):
        assert isinstance(apply_overrides(before, [text]), dict)
    assert before == {"a": {"b": [{"c": 1}]}, "b": "word"}


def test_the_depth_limit_itself_is_allowed(tmp_path: Path) -> None:
    depth = DEEPEST - 1
    assert load_config(written(tmp_path, '{"a": ' + "[" * depth + "]" * depth + "}", "a.json"))
