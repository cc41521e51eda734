"""The second half of a student: what makes colours of features.

Teacher and student of PVD share it, so that a student whose features are its teacher's shows its teacher's colours
before it has learnt any. Here a student takes over its teacher's colour network where both read the same kind of
features, and is given as many features as its teacher has.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fieldforge.apps.fit.recipe import Config
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.kinds.scene import SceneField
from fieldforge.fields.networks.basis import Basis
from fieldforge.registry import config_of


def with_head(config: Config, teacher: SceneField) -> Config:
    """A preset's tables with as many features as a teacher has, and its colour network where that reads the same."""
    splits = _has_basis(config) or ("rgb_encoding" not in config and _n_geometry(config) > 1)
    if not splits or "partition" in config or not isinstance(teacher, RadianceField):
        return config
    if teacher.partition is not None or teacher.appearance:
        return config
    theirs = _given(teacher.config())
    if isinstance(teacher.rgb_network, Basis):
        n = teacher.rgb_network.n_basis
        if _has_basis(config):
            return config | {"dir_encoding": theirs["dir_encoding"], "rgb_network": theirs["rgb_network"]}
        return config | {"radiance": config.get("radiance", {}) | {"n_geometry": n + 1}}
    if teacher.rgb_encoding is not None or teacher.n_geometry == 1:
        return config
    if _has_basis(config):
        return config | {"rgb_network": config["rgb_network"] | {"n_basis": teacher.n_geometry - 1}}
    return config | {
        "dir_encoding": theirs["dir_encoding"],
        "rgb_network": theirs["rgb_network"],
        "radiance": config.get("radiance", {}) | {"n_geometry": teacher.n_geometry},
    }


@torch.no_grad()
def copy_head(student: RadianceField, teacher: SceneField) -> bool:
    """Give a student its teacher's numbers where both have the same colour network, or the same behind a matrix."""
    if not isinstance(teacher, RadianceField) or student.partition is not None or teacher.partition is not None:
        return False
    if student.dir_encoding.config() != teacher.dir_encoding.config():
        return False
    if student.background_network is not None and teacher.background_network is not None:
        student.background_network.load_state_dict(teacher.background_network.state_dict())
    ours: nn.Module = student.rgb_network
    its: nn.Module = teacher.rgb_network
    if isinstance(ours, Basis) and isinstance(its, Basis):
        if (ours.n_basis, ours.n_frequencies, ours.n_direct) != (its.n_basis, its.n_frequencies, its.n_direct):
            return False
        ours, its = ours.nested, its.nested
    elif isinstance(ours, Basis) or isinstance(its, Basis) or student.rgb_encoding or teacher.rgb_encoding:
        return False
    if type(ours) is not type(its) or config_of(ours) != config_of(its) or _shapes(ours) != _shapes(its):
        return False
    ours.load_state_dict(its.state_dict())
    return True


def _given(config: Any) -> Any:
    """Without keys whose value is nothing, which a run file cannot say."""
    if isinstance(config, dict):
        return {key: _given(value) for key, value in config.items() if value is not None}
    return [_given(value) for value in config] if isinstance(config, list) else config


def _n_geometry(config: Config) -> int:
    return int(config.get("radiance", {}).get("n_geometry", 16))


def _has_basis(config: Config) -> bool:
    return isinstance(config["rgb_network"], dict) and config["rgb_network"].get("otype") == "Basis"


def _shapes(module: nn.Module) -> list[tuple[str, torch.Size]]:
    return [(name, tensor.shape) for name, tensor in module.state_dict().items()]
