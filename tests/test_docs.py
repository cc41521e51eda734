"""Every docstring example and every Python block of the README is true."""

from __future__ import annotations

import doctest
import functools
import importlib
import math
import pkgutil
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import fieldforge
import fieldforge.apps
import fieldforge.encodings
import fieldforge.fields
import fieldforge.renderers

ROOT = Path(__file__).resolve().parents[1]


def modules() -> list[str]:
    names = [f"fieldforge.{name}" for name in ("registry", "backends", "checks")]
    for package in (fieldforge.apps, fieldforge.encodings, fieldforge.fields, fieldforge.renderers):
        names += [one.name for one in pkgutil.walk_packages(package.__path__, package.__name__ + ".")]
    return sorted(set(names))


@pytest.mark.parametrize("name", modules())
def test_docstring_examples(name: str) -> None:
    module = importlib.import_module(name)
    names = {"torch": torch, "np": np, "numpy": np, "math": math, **vars(module)}
    torch.manual_seed(0)
    failed, _ = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert failed == 0, f"{failed} examples of {name} are not true; run python -m doctest on it to see"


def readme_blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)


def test_readme_python_blocks_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a photo.png and a mesh.ply in the folder, and few steps."""
    blocks = readme_blocks("python")
    assert blocks, "the README shows no Python"
    from fieldforge.apps.images import read_image, write_image

    monkeypatch.chdir(tmp_path)
    write_image("photo.png", read_image(ROOT / "data/images/astronaut.png").pixels[80:144, 190:254])
    shutil.copy(ROOT / "data/meshes/spot.ply", "mesh.ply")
    for name in ("fit", "fit_shape"):
        quick = functools.partial(getattr(fieldforge, name), steps=20, progress="quiet")
        monkeypatch.setattr(fieldforge, name, quick)
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), names)


def test_readme_shell_commands_exist() -> None:
    """Each `fieldforge ...` line of the README parses."""
    import shlex

    from fieldforge.apps.cli import parser

    lines = [line for block in readme_blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    spoken = [line.split(" > ")[0] for line in lines if line.startswith("fieldforge ")]
    commands = [shlex.split(line, comments=True)[1:] for line in spoken]
    assert len(commands) >= 3
    for command in commands:
        _, unknown = parser().parse_known_args(command)
        assert not unknown, command
