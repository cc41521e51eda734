"""What one core of this machine can do: the limits that the speed of a kernel is held against.

Small native loops, timed by the CPU time of the process. A limit is the best of some repetitions: what disturbs a
loop makes it slower, and never faster.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from fieldforge.kernels.cpu_door import native

MIB = 2**20
TABLES = (MIB, 4 * MIB, 16 * MIB)
"""Bytes of the tables that random accesses are measured in."""
_L2, _L3, _DRAM = MIB // 2, 8 * MIB, 256 * MIB


@dataclass(frozen=True)
class Limits:
    """One core's limits, each per second.

    Args:
        multiply_add: float32 operations (a multiply-add is two) of the instruction set in use.
        bfloat16_dot: operations of bfloat16 dot products; None where there are none.
        dram_read, l3_read, l2_read: bytes read in a row from 256 MiB, 8 MiB and 512 KiB.
        dram_update: bytes read and written (a float that is increased counts 8).
        gathers, scatter_adds: bytes of a table -> reads, or increases, of 8 bytes at random places of it.
    """

    multiply_add: float
    bfloat16_dot: float | None
    dram_read: float
    dram_update: float
    l3_read: float
    l2_read: float
    gathers: Mapping[int, float]
    scatter_adds: Mapping[int, float]


def measure(*, seconds: float = 0.03, repeats: int = 7) -> Limits:
    """Measure this core.

    Args:
        seconds: CPU time of a repetition, about.
        repeats: of which the best counts.

    Raises:
        RuntimeError: there are no native kernels here.
    """
    loops = native().limits

    def best(work: Callable[[int], object], unit: int = 1) -> float:
        """Most units a second of work(n), n growing until it takes long enough."""
        n = unit
        while (taken := _seconds(work, n)) < seconds:
            n = unit * max(2 * n // unit, min(64 * n // unit, int(n / unit * seconds / max(taken, 1e-9))))
        return n / min([taken, *(_seconds(work, n) for _ in range(repeats - 1))])

    a_round = 12 * loops.n_lanes()
    memory = torch.zeros(_DRAM // 4 + 16)
    start = memory.data_ptr() + -memory.data_ptr() % 64  # whole cache lines

    def read(n_bytes: int) -> float:
        return n_bytes * best(lambda n: loops.read(start, n_bytes // 4, n))

    def random(accesses: Callable[[int, int, int], object]) -> dict[int, float]:
        return {size: best(partial(accesses, start, size // 8), unit=4) for size in TABLES}

    return Limits(
        multiply_add=2 * a_round * best(loops.multiply_adds),
        bfloat16_dot=4 * a_round * best(loops.bfloat16_dots) if loops.has_bfloat16_dots() else None,
        dram_read=read(_DRAM),
        dram_update=2 * _DRAM * best(lambda n: loops.update(start, _DRAM // 4, n)),
        l3_read=read(_L3),
        l2_read=read(_L2),
        gathers=random(loops.gathers),
        scatter_adds=random(loops.scatter_adds),
    )


def _seconds(work: Callable[[int], object], n: int) -> float:
    start = time.process_time()
    work(n)
    return time.process_time() - start
