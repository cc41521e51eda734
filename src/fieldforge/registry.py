"""One table of named parts: encodings, activations, networks, losses, optimizers, schedules, samplers, fields, codecs.

The constructor is the schema. The keys of a configuration are the constructor's keyword names, ``otype`` picks
the class (in any case of letters), and what the surroundings decide (`CONTEXT`: the number of inputs, the random
generator, ...) never stands in a file::

    build("encoding", {"otype": "HashGrid", "n_levels": 8}, n_input_dims=2)

A part of your own registers with the decorator, or by an entry point of the group ``fieldforge.<kind>`` whose
name is the otype; the entry point is loaded when its name is first used::

    @register("encoding", "acme.Gabor")
    class Gabor(Encoding): ...

    [project.entry-points."fieldforge.encoding"]
    "acme.Gabor" = "acme.gabor:Gabor"
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Literal, TypeVar, Union

from fieldforge.checks import did_you_mean

Part = TypeVar("Part", bound=Callable[..., Any])

CONTEXT = frozenset(
    {"self", "n_input_dims", "n_output_dims", "n_coordinates", "hidden_widths", "channel_order", "generator",
     "parameters", "layout"}
)  # fmt: skip
"""Constructor arguments that the surroundings give; never part of a configuration."""

HOMES: dict[str, str] = {
    "encoding": "fieldforge.encodings",
    "activation": "fieldforge.fields.activations",
    "network": "fieldforge.fields.networks",
    "modulation": "fieldforge.fields.modulation",
    "reparameterisation": "fieldforge.fields.reparameterisation",
    "space": "fieldforge.fields.space",
    "partition": "fieldforge.fields.partitions",
    "field": "fieldforge.fields.kinds",
    "codec": "fieldforge.fields.weightspace.codecs",
    "weight_network": "fieldforge.fields.weightspace.networks",
    "noise": "fieldforge.fields.weightspace.noise",
    "denoiser": "fieldforge.fields.weightspace.denoisers",
    "generator": "fieldforge.fields.weightspace.generators",
    "loss": "fieldforge.apps.fit.losses",
    "regularizer": "fieldforge.apps.fit.regularizers",
    "optimizer": "fieldforge.apps.fit.optimizers",
    "schedule": "fieldforge.apps.fit.schedules",
    "sampler": "fieldforge.apps.fit.scene.samplers",
    "selection": "fieldforge.apps.fit.selections",
    "gradient_transform": "fieldforge.apps.fit.gradient_transforms",
    "diagnostic": "fieldforge.apps.fit.diagnostics",
}
"""Where the parts of each kind live; every module in that place is imported when the kind is first asked for."""


class ConfigError(ValueError):
    """A configuration says something that cannot be built; the message begins with the full path of the key."""


@dataclass(frozen=True)
class Entry:
    """A registered part: the class (or function) that builds it and the defaults its name implies."""

    kind: str
    name: str
    factory: Callable[..., Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def options(self) -> dict[str, inspect.Parameter]:
        """The configuration keys: keyword names of the constructor without the context, with this name's defaults."""
        parameters = inspect.signature(self.factory).parameters
        return {
            name: parameter.replace(default=self.defaults.get(name, parameter.default))
            for name, parameter in parameters.items()
            if name not in CONTEXT and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        }


_entries: dict[str, dict[str, Entry]] = {kind: {} for kind in HOMES}


def register(kind: str, name: str, *, defaults: Mapping[str, Any] | None = None) -> Callable[[Part], Part]:
    """Put a class into the table under `name`; may be stacked to give it several names.

    Args:
        kind: one of `HOMES`.
        name: the ``otype``; a third party's begins with its own prefix ("acme.Gabor").
        defaults: constructor defaults that this name changes (HashGrid is Grid with ``type="Hash"``).

    Raises:
        ValueError: the name is taken by another class.
    """

    def enter(factory: Part) -> Part:
        table = _table(kind)
        taken = table.get(name.lower())
        if taken is not None and taken.factory.__qualname__ != factory.__qualname__:
            raise ValueError(f"{kind} {name!r} is already registered by {taken.factory.__module__}")
        table[name.lower()] = Entry(kind, name, factory, dict(defaults or {}))
        return factory

    return enter


def available(kind: str) -> list[str]:
    """Names of all parts of a kind, built-in and by entry point, sorted.

    Example:
        >>> "HashGrid" in available("encoding")
        True
    """
    _load_home(kind)
    names = {entry.name for entry in _table(kind).values()}
    return sorted(names | set(_plugins(kind)), key=str.lower)


def find(kind: str, name: str) -> Entry:
    """The entry of a name, loading its plugin if need be.

    Raises:
        ConfigError: no part has that name; the message offers the nearest.
    """
    _load_home(kind)
    table = _table(kind)
    if name.lower() not in table:
        for plugin_name, plugin in _plugins(kind).items():
            if plugin_name.lower() == name.lower():
                register(kind, plugin_name)(plugin.load())
    if name.lower() not in table:
        known = available(kind)
        raise ConfigError(f"otype: no {kind} is called {name!r}{did_you_mean(name, known)}; known: {', '.join(known)}")
    return table[name.lower()]


def build(kind: str, config: str | Mapping[str, Any], *, path: str = "", **context: Any) -> Any:
    """Make a part from its configuration.

    Args:
        kind: one of `HOMES`.
        config: an otype, or a mapping with the key ``otype`` and constructor keywords.
        path: where the configuration stands in its file, for messages ("encoding").
        context: what the surroundings decide; arguments that the constructor does not name are left out.

    Raises:
        ConfigError: unknown otype or key, a value of the wrong type or out of range; begins with the key's path.
    """
    entry, options = resolve(kind, config, path=path)
    accepted = inspect.signature(entry.factory).parameters
    given = {name: value for name, value in context.items() if name in accepted}
    try:
        return entry.factory(**given, **options)
    except (ValueError, TypeError) as error:
        raise ConfigError(_join(path, str(error))) from error


def resolve(kind: str, config: str | Mapping[str, Any], *, path: str = "") -> tuple[Entry, dict[str, Any]]:
    """Check a configuration's keys and types; returns the entry and the keywords to construct it with."""
    if isinstance(config, str):
        config = {"otype": config}
    if not isinstance(config, Mapping):
        raise ConfigError(_join(path, f"expected a table with the key otype, got {config!r}"))
    if not isinstance(config.get("otype"), str):
        raise ConfigError(_join(path, f"otype: expected the name of a {kind}, got {config.get('otype')!r}"))
    try:
        entry = find(kind, config["otype"])
    except ConfigError as error:
        raise ConfigError(_join(path, str(error))) from None
    known = entry.options()
    hints = _hints(entry.factory)
    options = dict(entry.defaults)
    for key, value in config.items():
        if key == "otype":
            continue
        if key not in known:
            message = f"{key}: {entry.name} has no such key{did_you_mean(str(key), known)}"
            raise ConfigError(_join(path, f"{message}; known: {', '.join(known) or 'none'}"))
        expected = hints.get(key)
        if not _fits(value, expected):
            raise ConfigError(_join(path, f"{key}: expected {_spell(expected)}, got {value!r}"))
        options[key] = value
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in options:
            raise ConfigError(_join(path, f"{key}: {entry.name} needs this key"))
    return entry, options


def config_of(part: Any) -> dict[str, Any]:
    """The configuration that rebuilds `part`: its constructor's keywords, read from attributes of the same names.

    Parts inside it (an activation, a list of encodings) appear as their own configurations.
    """
    keys = [
        name
        for name, parameter in inspect.signature(type(part)).parameters.items()
        if name not in CONTEXT and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    ]
    return {"otype": part.otype} | {key: _plain(getattr(part, key)) for key in keys}


def _plain(value: Any) -> Any:
    if hasattr(value, "config"):
        return value.config()
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(item) for item in value]
    return value


def _table(kind: str) -> dict[str, Entry]:
    if kind not in _entries:
        raise ValueError(f"kind: expected one of {', '.join(_entries)}, got {kind!r}")
    return _entries[kind]


@cache
def _load_home(kind: str) -> None:
    home = importlib.import_module(HOMES[kind])
    for module in pkgutil.iter_modules(getattr(home, "__path__", ())):
        importlib.import_module(f"{HOMES[kind]}.{module.name}")


@cache
def _plugins(kind: str) -> dict[str, EntryPoint]:
    return {plugin.name: plugin for plugin in entry_points(group=f"fieldforge.{kind}")}


@cache
def _hints(factory: Callable[..., Any]) -> dict[str, Any]:
    return typing.get_type_hints(factory.__init__ if inspect.isclass(factory) else factory)


def _join(path: str, message: str) -> str:
    """Put the section in front of a message that begins with a key: 'encoding' + 'n_levels: ...'."""
    if not path:
        return message
    return f"{path}.{message}" if re.match(r"[\w.\[\]]+: ", message) else f"{path}: {message}"


def _fits(value: Any, expected: Any) -> bool:
    """Whether a value from a file may be given where the constructor's annotation is `expected`."""
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        return any(_fits(value, choice) for choice in arguments)
    if origin is Literal:
        return True  # spelling and case are the constructor's business
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if expected in (bool, str):
        return isinstance(value, expected)
    if expected is type(None):
        return value is None
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        item = arguments[0] if arguments else Any
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_fits(v, item) for v in value)
    if inspect.isclass(expected) and not (origin or expected is object):
        return isinstance(value, (expected, str, Mapping))  # a part: itself, its otype, or its table
    return True


def _spell(expected: Any) -> str:
    origin, arguments = typing.get_origin(expected), typing.get_args(expected)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_spell(choice) for choice in arguments))
    if inspect.isclass(origin) and issubclass(origin, Mapping):
        return "a table"
    if inspect.isclass(origin) and issubclass(origin, Sequence):
        return f"a list of {_spell(arguments[0])}" if arguments else "a list"
    names = {int: "an integer", float: "a number", bool: "true or false", str: "a string", type(None): "nothing"}
    return names.get(expected, getattr(expected, "__name__", str(expected)))
