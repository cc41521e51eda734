"""Whole fits and trainings on the stand-in of tests/far.py, through the doors of `fieldforge.devices`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from far import META, Far, FarDevice, far_device
from torch import Tensor

from fieldforge import backends, devices
from fieldforge.backends import use_backend
from fieldforge.kernels.cpu_marching import Walk
from fieldforge.renderers import marching


def numbers(tensor: Tensor) -> Tensor:
    """What lies on the stand-in, on the CPU."""
    return tensor.near if isinstance(tensor, Far) else tensor.detach()


def put_doors(monkeypatch: pytest.MonkeyPatch, **doors: Callable[..., Any]) -> None:
    """Replace functions of `fieldforge.devices` wherever they were imported to."""
    doors |= {"home": lambda tensor: numbers(tensor).numpy(), "find_device": lambda name="auto": META}
    for name, door in doors.items():
        was = getattr(devices, name)
        for room in [one for one in sys.modules.values() if getattr(one, name, None) is was]:
            monkeypatch.setattr(room, name, door)


def march_as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Marching goes to the end of each ray, without counting steps first; here they are counted beside the stand-in."""

    def march(walk: Walk) -> Any:
        assert isinstance(walk.stride, marching.Stride)
        assert walk.stride.n_most == marching.MAX_STEPS or not isinstance(walk.origins, Far)
        near = marching.count_steps(numbers(walk.start), numbers(walk.end), walk.stride)
        return marching.march_rays(walk._replace(stride=replace(walk.stride, n_most=near)))

    table = backends._implementations["march"]
    monkeypatch.setitem(table, "reference", replace(table["reference"], function=march))


@contextmanager
def as_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FarDevice]:
    """Inside the block the stand-in is the device of whoever asks `find_device`, and what `arrived`, `home` and `move`
    do, they do for it. The default device is the CPU: whoever computes on the device says so with `working_on`."""
    with far_device() as far, use_backend("reference"), torch.device("cpu"):

        def arrived(values: Any, device: torch.device | None = None) -> Tensor:
            tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
            wanted = torch.get_default_device() if device is None else device
            if wanted.type == "cpu":
                assert not isinstance(tensor, Far), "came back by the wrong door"
                return tensor
            return tensor if isinstance(tensor, Far) else far.tensor(tensor)

        def move(module: Any, device: torch.device) -> Any:
            return far.bring(module) if device.type == "meta" else far.send_home(module)

        put_doors(monkeypatch, arrived=arrived, move=move)
        yield far


@contextmanager
def scene_on_the_stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[FarDevice]:
    """What `arrived`, `home` and `move` do, for the stand-in; marching goes as on a GPU, where it counts no steps."""

    march_as_on_a_gpu(monkeypatch)
    with far_device() as far, use_backend("reference"):

        def arrived(values: Any, device: torch.device | None = None) -> Tensor:
            tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
            return tensor if isinstance(tensor, Far) else far.tensor(tensor)

        put_doors(monkeypatch, arrived=arrived, move=lambda module, device: far.bring(module))
        yield far
