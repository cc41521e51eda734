"""A fake of Triton's CUDA driver for tests: kernels are bound, tuned, compiled and kept as on a card, and none starts.

So Triton's own way from a call to machine code runs without a device: what it specialises on, which configurations it
measures, what it keeps on disk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SHARED_MEMORY = {80: 163, 86: 99, 89: 99, 90: 227}
"""KiB that a program may have, by compute capability (CUDA C++ Programming Guide, technical specifications)."""


class FakeDriver:
    """In the place of ``triton.runtime.driver.active``.

    Args:
        capability: of the card that is not there, 90 for 9.0.
        measures: how many configurations of a kernel are compiled; the others are the slowest without a look.

    Attributes:
        started: names of the kernels that would have started.
        n_measured: how many configurations were asked for.
    """

    def __init__(self, capability: int, measures: int = 1) -> None:
        self.capability, self.measures = capability, measures
        self.started: list[str] = []
        self.n_measured = 0
        self.utils = self
        fake = self

        class Launcher:
            def __init__(self, source: Any, _: Any) -> None:
                self.name = source.fn.__name__

            def __call__(self, x: int, y: int, z: int, *_: object) -> None:
                assert 0 < x < 2**31, x
                assert 0 < max(y, z) < 2**16, (y, z)
                fake.started.append(self.name)

        self.launcher_cls = Launcher

    def get_current_target(self) -> Any:
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, _: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return torch.device("cpu")

    def get_device_properties(self, _: int) -> dict[str, int]:
        return {"max_shared_mem": 1024 * SHARED_MEMORY[self.capability]}

    def load_binary(self, *_: object) -> tuple[int, int, int, int, int]:
        """Module, function, registers, spilled, most threads."""
        return 1, 1, 32, 0, 1024

    def get_benchmarker(self) -> Callable[..., list[float]]:
        def measure(call: Callable[[], None], **_: object) -> list[float]:
            self.n_measured += 1
            if self.n_measured > self.measures:
                return [2.0] * 3
            call()
            return [1.0] * 3

        return measure
