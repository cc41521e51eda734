"""The registry: the constructor is the schema, errors carry the full path, plugins load on first use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import pytest
import torch

from fieldforge import registry
from fieldforge.encodings.identity import Identity
from fieldforge.registry import ConfigError, available, build, config_of, register


class Probe:
    """A part with a key of every type."""

    otype = "Probe"

    def __init__(
        self,
        n_input_dims: int,
        *,
        count: int = 1,
        ratio: float = 0.5,
        is_on: bool = False,
        name: str = "x",
        mode: Literal["a", "b"] = "a",
        sizes: Sequence[int] = (1, 2),
        maybe: int | None = None,
        nested: Mapping[str, Any] | str = "Identity",
    ) -> None:
        if ratio < 0:
            raise ValueError(f"ratio: expected at least 0, got {ratio}")
        self.n_input_dims, self.count, self.ratio, self.is_on = n_input_dims, count, ratio, is_on
        self.name, self.mode, self.sizes, self.maybe, self.nested = name, mode, sizes, maybe, nested
        if isinstance(nested, Mapping):
            build("encoding", nested, path="nested", n_input_dims=n_input_dims)


@pytest.fixture(autouse=True)
def probe(monkeypatch: pytest.MonkeyPatch) -> None:
    """Registered for one test."""
    available("encoding")
    monkeypatch.setitem(registry._entries, "encoding", dict(registry._entries["encoding"]))
    register("encoding", "Probe")(Probe)
    register("encoding", "BigProbe", defaults={"count": 9})(Probe)


def test_keys_are_keywords_and_case_of_otype_does_not_matter() -> None:
    made = build("encoding", {"otype": "pRoBe", "count": 3, "ratio": 1}, n_input_dims=2)
    assert (made.count, made.ratio, made.n_input_dims) == (3, 1, 2)
    assert build("encoding", "probe", n_input_dims=2).count == 1


def test_a_name_may_change_defaults() -> None:
    assert build("encoding", "BigProbe", n_input_dims=2).count == 9
    assert build("encoding", {"otype": "BigProbe", "count": 4}, n_input_dims=2).count == 4


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"otype": "Prob"}, r"^encoding\.otype: no encoding is called 'Prob'; did you mean Probe"),
        ({}, r"^encoding\.otype: expected the name of a encoding, got None"),
        ("nope nope", r"^encoding\.otype: no encoding is called 'nope nope'; known: "),
        ({"otype": "Probe", "cuont": 3}, r"^encoding\.cuont: Probe has no such key; did you mean count"),
        ({"otype": "Probe", "n_input_dims": 3}, r"^encoding\.n_input_dims: Probe has no such key"),
        ({"otype": "Probe", "count": 1.5}, r"^encoding\.count: expected an integer, got 1\.5"),
        ({"otype": "Probe", "count": True}, r"^encoding\.count: expected an integer, got True"),
        ({"otype": "Probe", "ratio": "half"}, r"^encoding\.ratio: expected a number, got 'half'"),
        ({"otype": "Probe", "is_on": 1}, r"^encoding\.is_on: expected true or false, got 1"),
        ({"otype": "Probe", "name": 3}, r"^encoding\.name: expected a string, got 3"),
        ({"otype": "Probe", "sizes": 3}, r"^encoding\.sizes: expected a list of an integer, got 3"),
        ({"otype": "Probe", "sizes": [1, "2"]}, r"^encoding\.sizes: expected a list of an integer"),
        ({"otype": "Probe", "maybe": "x"}, r"^encoding\.maybe: expected an integer or nothing, got 'x'"),
        ({"otype": "Probe", "ratio": -1.0}, r"^encoding\.ratio: expected at least 0, got -1\.0"),
        (
            {"otype": "Probe", "nested": {"otype": "Identity", "scale": "x"}},
            r"^encoding\.nested\.scale: expected a num",
        ),
        ([1], r"^encoding: expected a table with the key otype, got \[1\]"),
    ],
)
def test_errors_carry_path_value_and_way_out(config: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("encoding", config, path="encoding", n_input_dims=2)


def test_config_of_rebuilds() -> None:
    made = build("encoding", {"otype": "Probe", "sizes": [3, 4], "maybe": 5}, n_input_dims=2)
    again = build("encoding", config_of(made), n_input_dims=2)
    assert config_of(again) == config_of(made)
    assert again.sizes == [3, 4]


def test_a_name_can_be_taken_once() -> None:
    with pytest.raises(ValueError, match=r"encoding 'Identity' is already registered"):
        register("encoding", "Identity")(Probe)
    register("encoding", "Identity")(Identity)  # importing a module again is fine


def test_plugins_are_listed_and_loaded_on_first_use(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = []

    class Plugin:
        def load(self) -> type[Probe]:
            loaded.append(1)
            return Probe

    monkeypatch.setattr(registry, "_plugins", lambda kind: {"acme.Gabor": Plugin()} if kind == "encoding" else {})
    assert "acme.Gabor" in available("encoding")
    assert not loaded
    assert isinstance(build("encoding", "ACME.gabor", n_input_dims=1), Probe)
    assert loaded == [1]


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises((ValueError, KeyError)):
        available("flavour")


@pytest.mark.parametrize("kind", sorted(registry.HOMES))
def test_every_built_in_has_a_manual_page(kind: str) -> None:
    for name in available(kind):
        entry = registry.find(kind, name)
        assert entry.factory.__doc__, f"{kind} {name} has no docstring"
        if isinstance(entry.factory, type) and issubclass(entry.factory, torch.nn.Module):
            assert hasattr(entry.factory, "otype"), f"{kind} {name} has no otype"
