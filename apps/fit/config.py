"""Run configurations: TOML run files, and JSON files of tiny-cuda-nn and instant-ngp.

A run file is complete: one TOML file, tables named after the parts (`SECTIONS`), no inheritance::

    [encoding]
    otype = "HashGrid"
    n_levels = 8

    [optimizer]
    otype = "EMA"
    nested = { otype = "Adam", learning_rate = 1e-2 }

A JSON file may hold // and /* */ comments and trailing commas, and may name a ``"parent"`` beside it whose keys it
overrides (instant-ngp). tiny-cuda-nn reads what it knows and ignores the rest in silence. Here an ignored key is
dropped with a notice if tiny-cuda-nn knows it from another part, and is an error otherwise.

`read_run` does all of this: read, override, check. What is wrong is a `ConfigError` that begins with the file or with
the full path of the key.
"""

from __future__ import annotations

import copy
import json
import re
import tomllib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fieldforge.checks import did_you_mean
from fieldforge.registry import ConfigError, find, resolve

Config = dict[str, Any]

SECTIONS: dict[str, str | dict[str, str | None]] = {
    "encoding": "encoding",
    "network": "network",
    "loss": "loss",
    "optimizer": "optimizer",
    "schedule": "schedule",
    "field": "field",
    "partition": "partition",
    "dir_encoding": "encoding",
    "rgb_encoding": "encoding",
    "rgb_network": "network",
    "sampler": "sampler",
    "selection": "selection",
    "gradient_transform": "gradient_transform",
    "regularizers": "regularizer",
    "ray_losses": {"distortion": None, "opacity_entropy": None, "gradient_scaling": None},
    "radiance": {"n_geometry": None, "density_activation": None, "density_shift": None, "density_scale": None},
    "distillation": dict.fromkeys(
        (
            "features",
            "points",
            "along_rays",
            "remembered",
            "density",
            "clip_low",
            "clip_high",
            "alpha_length",
            "density_weight",
            "color_weight",
            "points_weight",
            "faint",
            "view_norm",
        )
    ),
    "distortion_map": {"resolution": None, "optimizer": "optimizer"},
    "generator": "generator",
    "codec": "codec",
    "denoiser": "denoiser",
    "weight_network": "weight_network",
    "noise": "noise",
    "envmap": {"resolution": None, "loss": "loss", "optimizer": "optimizer"},
}
"""Section -> the kind of part it configures, or its own keys with theirs (None: a plain value)."""

LISTS = frozenset({"regularizers"})
"""Sections that hold any number of parts of their kind."""

OWN_KIND = frozenset({"codec", "modulation", "reparameterisation"})
"""Keys whose parts are of the kind that the key is called."""

MOST_LISTED = 64
MOST_BYTES = 2**20
DEEPEST = 32
MOST_PARENTS = 8

DEFAULT_OTYPES = {"encoding": "OneBlob", "network": "MLP", "loss": "RelativeL2", "optimizer": "Adam"}
"""What tiny-cuda-nn builds where a file does not say otype."""

PLACEMENT = {"encoding": {"n_dims_to_encode", "dims_to_encode_begin"}, "optimizer": {"n_params_to_optimize"}}
"""Keys inside a list of nested parts that belong to the Composite around them."""

VOCABULARY = frozenset(
    """
    absolute_decay activation adabound alpha base_resolution batch_size_multiplier beta1 beta2 beta3 beta_shampoo
    cg_on_momentum clipping_magnitude decay decay_base decay_end decay_interval decay_start degree
    dims_to_encode_begin epsilon fixed_point_pos frobenius_normalization full_precision gradient_clipping_magnitude
    hash identity interpolation l2_reg learning_rate log2_hashmap_size n_bins n_dims_to_encode n_features
    n_features_per_level n_frequencies n_grid_features n_hidden_layers n_levels n_neurons n_params_to_optimize
    n_samples n_steps nested non_matrix_l2_reg non_matrix_learning_rate_factor offset optimize_matrix_params
    optimize_non_matrix_params output_activation per_level_scale reduction relative_decay scale
    skip_zero_grad_non_matrix_params stochastic_interpolation type
    """.split()
)
"""Every key that some part of tiny-cuda-nn reads."""

INSTEAD = {
    "n_features": "give n_levels and n_features_per_level",
    "n_grid_features": "give n_levels and n_features_per_level",
}
"""Keys that tiny-cuda-nn's grids read and ours do not."""


def read_run(
    path: str | Path, overrides: Iterable[str] = (), *, extra: Collection[str] = ()
) -> tuple[Config, list[str]]:
    """Read a configuration file, apply ``--set`` overrides, and check all of it.

    Args:
        path: a .toml or .json file.
        overrides: "encoding.n_levels=12", ...; a key that does not exist is an error also for a JSON file.
        extra: names of further sections, which the caller checks.

    Returns:
        The configuration, and notices of what was dropped or filled in, one sentence each.

    Raises:
        ConfigError: anything at all is wrong.
    """
    config, notices = validate(load_config(path), is_tcnn=Path(path).suffix.lower() == ".json", extra=extra)
    overrides = list(overrides)
    if overrides:
        config, _ = validate(apply_overrides(config, overrides), extra=extra)
    return config, notices


def load_config(path: str | Path) -> Config:
    """The tables of a .toml or .json file (parents merged in), unchecked but small and shallow.

    Raises:
        ConfigError: the file cannot be read or parsed, is larger than 1 MiB, or is nested deeper than 32.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    if suffix == ".toml":
        return _parse_toml(path)
    if suffix == ".json":
        return _parse_json_family(path)
    raise ConfigError(f"{path}: expected a .toml or .json file")


def apply_overrides(config: Mapping[str, Any], overrides: Iterable[str]) -> Config:
    """A copy of `config` with ``path=value`` settings applied, in order.

    Where a section becomes another part (``encoding.otype=Frequency``), keys that the new part does not have go.

    Args:
        config: tables.
        overrides: a dotted path, also into lists, and a TOML value; a bare word is a string.

    Raises:
        ConfigError: not of that form, or the path leads through something that is no table or list.

    Example:
        >>> apply_overrides({"optimizer": {"otype": "Adam"}}, ["optimizer.learning_rate=1e-2", "loss.otype=L1"])
        {'optimizer': {'otype': 'Adam', 'learning_rate': 0.01}, 'loss': {'otype': 'L1'}}
        >>> apply_overrides({"encoding": {"nested": [{"otype": "Identity"}]}}, ["encoding.nested[0].scale=2.0"])
        {'encoding': {'nested': [{'otype': 'Identity', 'scale': 2.0}]}}
    """
    changed: Config = copy.deepcopy(dict(config))
    for text in overrides:
        path, equals, value = text.partition("=")
        path = path.strip()
        if not equals or not re.fullmatch(r"[\w-]+(\[\d{1,6}\])*(\.[\w-]+(\[\d{1,6}\])*)*", path):
            raise ConfigError(f"{text!r}: expected section.key=value, such as encoding.n_levels=12")
        steps = [int(index) if index else name for name, index in re.findall(r"([\w-]+)|\[(\d+)\]", _spaced(path))]
        if len(steps) > DEEPEST:
            raise ConfigError(f"{text[:80]!r}...: leads deeper than {DEEPEST} tables")
        _set(changed, steps, _parse_value(path, value))
        if steps[1:] == ["otype"]:
            _keep_known_keys(changed, str(steps[0]))
    _expect_shallow(changed, "overrides")
    return changed


def validate(
    config: Mapping[str, Any], *, is_tcnn: bool = False, extra: Collection[str] = ()
) -> tuple[Config, list[str]]:
    """Check every section's otype, keys and types, also of nested parts.

    Args:
        config: sections, as `load_config` gives them.
        is_tcnn: what a file of tiny-cuda-nn may do: leave otype to its default, and give a part keys of other
            parts, which are dropped. Both come with a notice.
        extra: names of further sections, which are not looked into.

    Returns:
        The configuration without the dropped keys, and the notices.

    Raises:
        ConfigError: begins with the full path of the key.
    """
    checked: Config = {}
    notices: list[str] = []
    for name, section in config.items():
        if name in extra:
            checked[name] = section
            continue
        if name not in SECTIONS:
            known = [*SECTIONS, *extra]
            raise ConfigError(f"{name}: there is no such section{did_you_mean(name, known)}; known: {', '.join(known)}")
        kind = SECTIONS[name]
        if name in LISTS:
            checked[name] = _check_list(str(kind), section, name, is_tcnn, notices)
            continue
        if isinstance(kind, str):
            checked[name] = _check_part(kind, section, name, is_tcnn, notices)
        else:
            checked[name] = _check_group(kind, section, name, is_tcnn, notices)
    return checked, notices


def _check_list(kind: str, section: Any, path: str, is_tcnn: bool, notices: list[str]) -> list[Any]:
    """A section that holds any number of parts."""
    if isinstance(section, (str, Mapping)) or not isinstance(section, Sequence) or len(section) > MOST_LISTED:
        raise ConfigError(f"{path}: expected a list of at most {MOST_LISTED} tables, got {section!r:.80}")
    return [_check_part(kind, one, f"{path}[{i}]", is_tcnn, notices) for i, one in enumerate(section)]


def _check_group(kinds: Mapping[str, str | None], section: Any, path: str, is_tcnn: bool, notices: list[str]) -> Config:
    """A section that holds parts instead of being one."""
    if not isinstance(section, Mapping):
        raise ConfigError(f"{path}: expected a table, got {section!r}")
    checked: Config = {}
    for key, value in section.items():
        if key not in kinds:
            hint = did_you_mean(key, kinds)
            raise ConfigError(f"{path}.{key}: there is no such key{hint}; known: {', '.join(kinds)}")
        kind = kinds[key]
        checked[key] = value if kind is None else _check_part(kind, value, f"{path}.{key}", is_tcnn, notices)
    return checked


def _check_part(
    kind: str, part: Any, path: str, is_tcnn: bool, notices: list[str], placement: Collection[str] = ()
) -> Any:
    """A part and the parts nested in it; `placement` are keys that the part around it reads."""
    if not isinstance(part, Mapping):
        resolve(kind, part, path=path)
        return part
    placed = {key: value for key, value in part.items() if key in placement}
    own = {key: value for key, value in part.items() if key not in placement}
    if is_tcnn and "otype" not in own and kind in DEFAULT_OTYPES:
        own = {"otype": DEFAULT_OTYPES[kind], **own}
        notices.append(f"{path}.otype: not given, so it is {DEFAULT_OTYPES[kind]}, as in tiny-cuda-nn.")
    if is_tcnn and isinstance(own.get("otype"), str):
        own = _drop_ignored(kind, own, path, notices)
    resolve(kind, own, path=path)
    for key, value in own.items():
        is_activation = key.endswith("activation")
        where = f"{path}.{key}"
        if key == "nested" and isinstance(value, list):
            keys = PLACEMENT.get(kind, ())
            own[key] = [_check_part(kind, v, f"{where}[{i}]", is_tcnn, notices, keys) for i, v in enumerate(value)]
        elif key == "nested" or is_activation or (isinstance(value, Mapping) and "otype" in value):
            part_kind = "activation" if is_activation else key if key in OWN_KIND else kind
            own[key] = _check_part(part_kind, value, where, is_tcnn, notices)
    return own | placed


def _drop_ignored(kind: str, part: Config, path: str, notices: list[str]) -> Config:
    """Leave out the keys that tiny-cuda-nn would not look at, as far as it knows them from elsewhere."""
    try:
        entry = find(kind, part["otype"])
    except ConfigError as error:
        raise ConfigError(f"{path}.{error}") from None
    known = entry.options()
    ignored = [key for key in part if key != "otype" and key not in known and key in VOCABULARY]
    for key in ignored:
        if key in INSTEAD and "n_features_per_level" in known:
            raise ConfigError(f"{path}.{key}: tiny-cuda-nn's {entry.name} has this key, ours has not; {INSTEAD[key]}")
    if ignored:
        one = len(ignored) == 1
        notices.append(
            f"{path}: {', '.join(ignored)} {'is no key' if one else 'are no keys'} of {entry.name} and "
            f"{'was' if one else 'were'} dropped; tiny-cuda-nn ignores {'it' if one else 'them'} too."
        )
    return {key: value for key, value in part.items() if key not in ignored}


def _read_text(path: Path) -> str:
    try:
        if not path.is_file():
            raise ConfigError(f"{path}: there is no such file")
        with path.open("rb") as file:
            content = file.read(MOST_BYTES + 1)
    except (OSError, ValueError) as error:
        if isinstance(error, ConfigError):
            raise
        raise ConfigError(f"{path}: cannot be read: {error}") from error
    if len(content) > MOST_BYTES:
        raise ConfigError(f"{path}: larger than a configuration may be ({MOST_BYTES} bytes)")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 text: {error}") from error


def _parse_toml(path: Path) -> Config:
    text = _read_text(path)
    # tomllib takes time quadratic in the number of dots of one key.
    if re.search(rf"(?<![^\s.,=\[\]])(?:[^\s.,=\[\]]++\s*+\.\s*+){{{DEEPEST}}}", text):
        raise ConfigError(f"{path}: a key is nested deeper than {DEEPEST}")
    try:
        config = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error if isinstance(error, ValueError) else 'nested too deep'}") from error
    return _expect_shallow(config, path)


def _parse_json_family(path: Path) -> Config:
    """A JSON file over its parent, the parent over its own, ..."""
    files = [path]
    config = _parse_json(path)
    while "parent" in config:
        name = config.pop("parent")
        if not isinstance(name, str) or not re.fullmatch(r"[\w-][\w. -]*\.json", name):
            raise ConfigError(
                f"{files[-1]}: parent: expected the name of a .json file in the same folder, got {name!r}"
            )
        parent = path.parent / name
        if parent in files or len(files) > MOST_PARENTS:
            chain = " -> ".join(file.name for file in [*files, parent])
            raise ConfigError(f"{path}: parent: {'a cycle' if parent in files else 'too long a chain'}: {chain}")
        files.append(parent)
        config = _merged(_parse_json(parent), config)
    return config


def _merged(parent: Config, child: Mapping[str, Any]) -> Config:
    """Keys of the child replace those of the parent, tables are merged, null removes (RFC 7396)."""
    merged = dict(parent)
    for key, value in child.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, Mapping):
            below = merged.get(key)
            merged[key] = _merged(below if isinstance(below, dict) else {}, value)
        else:
            merged[key] = value
    return merged


def _parse_json(path: Path) -> Config:
    def table(pairs: list[tuple[str, Any]]) -> Config:
        once = dict(pairs)
        if len(once) < len(pairs):
            twice = Counter(key for key, _ in pairs).most_common(1)[0][0]
            raise ValueError(f"the key {twice!r} stands twice in one table")
        return once

    def refuse(word: str) -> float:
        raise ValueError(f"{word} is not a number in JSON")

    text = _without_comments(_read_text(path), path)
    try:
        config = json.loads(text, object_pairs_hook=table, parse_constant=refuse)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: {error if isinstance(error, ValueError) else 'nested too deep'}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{path}: expected a table of sections, got {type(config).__name__}")
    return _expect_shallow(config, path)


def _without_comments(text: str, path: Path) -> str:
    """JSON without comments and trailing commas; lines and columns stay where they were."""
    kept: list[str] = []
    at = 0
    while found := re.compile(r'["/]').search(text, at):
        start = found.start()
        kept.append(text[at:start])
        if found[0] == '"':
            end = re.compile(r'"(?:[^"\\\n]|\\.)*+"').match(text, start)
            if end is None:
                raise ConfigError(f"{path}: line {text.count(chr(10), 0, start) + 1}: a string is not closed")
            kept.append(end[0])
            at = end.end()
        elif text.startswith("//", start):
            at = text.find("\n", start)
            at = len(text) if at < 0 else at
        elif text.startswith("/*", start):
            end_of_comment = text.find("*/", start + 2)
            if end_of_comment < 0:
                raise ConfigError(f"{path}: line {text.count(chr(10), 0, start) + 1}: a comment is not closed")
            at = end_of_comment + 2
            kept.append(re.sub(r"[^\n]", " ", text[start:at]))
        else:
            kept.append("/")
            at = start + 1
    kept.append(text[at:])
    return _without_trailing_commas(kept)


def _without_trailing_commas(pieces: list[str]) -> str:
    """Blank out commas before a closing bracket; strings are pieces of their own and are left as they are."""
    closing = False
    for i in reversed(range(len(pieces))):
        piece = pieces[i]
        if piece.startswith('"'):
            closing = False
            continue
        letters = list(piece)
        for j in reversed(range(len(letters))):
            if letters[j] == "," and closing:
                letters[j], closing = " ", False
            elif not letters[j].isspace():
                closing = letters[j] in "]}"
        pieces[i] = "".join(letters)
    return "".join(pieces)


def _expect_shallow(config: Config, where: object) -> Config:
    """Refuse what is nested so deep that checking it would be at risk, and keys that cannot be shown."""
    waiting: list[tuple[Any, int]] = [(config, 1)]
    while waiting:
        value, depth = waiting.pop()
        if depth > DEEPEST:
            raise ConfigError(f"{where}: nested deeper than {DEEPEST}")
        if isinstance(value, dict):
            for key in value:
                if not key.isprintable():
                    raise ConfigError(f"{where}: the key {key!r} cannot be printed")
        if isinstance(value, (dict, list)):
            items = value.values() if isinstance(value, dict) else value
            waiting += [(item, depth + 1) for item in items if isinstance(item, (dict, list))]
    return config


def _spaced(path: str) -> str:
    """'a.b[0]' -> 'a b [0]', so that names and indices can be told apart."""
    return path.replace(".", " ").replace("[", " [")


def _keep_known_keys(config: Config, section: str) -> None:
    kind = SECTIONS.get(section)
    if isinstance(kind, str) and isinstance(config[section]["otype"], str):
        try:
            known = find(kind, config[section]["otype"]).options()
        except ConfigError:
            return  # `validate` says it with the path
        config[section] = {key: value for key, value in config[section].items() if key == "otype" or key in known}


def _set(config: Config, steps: list[str | int], value: Any) -> None:
    """Put a value at a path, making tables on the way where there is nothing."""
    here: Any = config
    walked = ""
    for i, step in enumerate(steps):
        is_last = i + 1 == len(steps)
        before = walked
        walked += f"[{step}]" if isinstance(step, int) else f"{'.' if walked else ''}{step}"
        if isinstance(step, int):
            if not isinstance(here, list):
                raise ConfigError(f"{walked}: {before} is no list")
            if step >= len(here):
                raise ConfigError(f"{walked}: the list has {len(here)} entries, counted from 0")
        elif not isinstance(here, dict):
            raise ConfigError(f"{walked}: {before} is no table")
        if is_last:
            here[step] = value
            return
        if isinstance(here, dict) and step not in here:
            here[step] = {}
        if isinstance(here[step], str):
            here[step] = {"otype": here[step]}  # a bare name stands for a part without keys
        here = here[step]


def _parse_value(path: str, text: str) -> Any:
    """A TOML value; what is none, and does not begin like one, is a string."""
    text = text.strip()
    try:
        if "\n" in text or "\r" in text:
            raise ValueError("it has more than one line")
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError) as error:
        if text and text[0] not in "\"'[{":
            return text
        raise ConfigError(f"{path}: cannot read the value {text[:80]!r}: {error}") from None
    return value if isinstance(value, (bool, int, float, str, list, dict)) else text
