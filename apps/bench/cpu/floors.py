"""The least time that a work can take on one core: the sum of its phases' roofline floors.

A phase is a pass that has to end before the next can begin. It takes at least the longest of

- its arithmetic at the peak rate of the instruction set in use (a multiply-add is two operations),
- its traffic in a row at the rate of DRAM (what is read, at the read rate; what is read and written again, both
  counted, at the rate of an update in place),
- its random accesses of 8 bytes at the rate of a table of that size.

The floor of a work is the sum over its phases. What is left out makes it a floor: activations, exponentials, index
arithmetic, loads from the caches. Inference of a field on a grid has two phases: gather (levels x corners accesses a
point) and network. A training step has four: gather, network (forward, and twice that backward), scatter-add, and
Adam, which reads parameter, gradient and two moments and writes all but the gradient, 28 bytes a parameter. A fused
step can beat the last: it never writes a whole gradient.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fieldforge.kernels.cpu_limits import Limits

ADAM_BYTES = 28


@dataclass(frozen=True)
class Phase:
    """What one pass needs.

    Args:
        flops: float32 operations, or bfloat16 ones if `is_bfloat16`.
        read, update: bytes in a row; `update` counts a byte that is read and written twice.
        gathers, scatter_adds: bytes of a table -> accesses of 8 bytes.
        is_bfloat16: which peak the operations are held against.
    """

    flops: float = 0.0
    read: float = 0.0
    update: float = 0.0
    gathers: Mapping[int, float] = field(default_factory=dict)
    scatter_adds: Mapping[int, float] = field(default_factory=dict)
    is_bfloat16: bool = False

    def seconds(self, limits: Limits) -> float:
        """The longest of arithmetic, traffic and random accesses."""
        peak = (limits.bfloat16_dot or limits.multiply_add) if self.is_bfloat16 else limits.multiply_add
        traffic = self.read / limits.dram_read + self.update / limits.dram_update
        random = sum(n / rate_of(limits.gathers, size) for size, n in self.gathers.items())
        random += sum(n / rate_of(limits.scatter_adds, size) for size, n in self.scatter_adds.items())
        return max(self.flops / peak, traffic, random)


def floor(phases: Sequence[Phase], limits: Limits) -> float:
    """Seconds, the sum over the phases."""
    return sum(phase.seconds(limits) for phase in phases)


def rate_of(rates: Mapping[int, float], size: int) -> float:
    """Of the smallest measured table that is as large, or of the largest."""
    return rates[min((known for known in rates if known >= size), default=max(rates))]


def multiply_adds(widths: Sequence[int]) -> float:
    """Operations of a network a point, forward."""
    return 2.0 * sum(a * b for a, b in itertools.pairwise(widths))


def n_parameters(widths: Sequence[int]) -> int:
    """Weights and biases of a network."""
    return sum(a * b + b for a, b in itertools.pairwise(widths))


def grid_inference(n: int, n_dims: int, n_levels: int, table_bytes: int, widths: Sequence[int]) -> list[Phase]:
    """Gather, then network."""
    corners = float(n * n_levels * 2**n_dims)
    return [Phase(gathers={table_bytes: corners}), Phase(flops=n * multiply_adds(widths))]


def grid_step(n: int, n_dims: int, n_levels: int, table_bytes: int, widths: Sequence[int]) -> list[Phase]:
    """Gather, network, scatter-add, Adam."""
    corners = float(n * n_levels * 2**n_dims)
    n_moved = n_levels * table_bytes // 4 + int(multiply_adds(widths)) // 2
    return [
        Phase(gathers={table_bytes: corners}),
        Phase(flops=3 * n * multiply_adds(widths)),
        Phase(scatter_adds={table_bytes: corners}),
        Phase(update=ADAM_BYTES * n_moved),
    ]


def network_step_flops(widths: Sequence[int]) -> float:
    """Operations of a training step a point; nobody asks for the gradient of the inputs."""
    return 3 * multiply_adds(widths) - 2.0 * widths[0] * widths[1]


def stack_inference(n: int, n_networks: int, widths: Sequence[int]) -> list[Phase]:
    """One phase: the networks, while parameters, inputs and outputs pass."""
    n_bytes = 4.0 * (n_parameters(widths) * n_networks + n * (widths[0] + widths[-1]))
    return [Phase(flops=n * multiply_adds(widths), read=n_bytes)]


def stack_step(n: int, n_networks: int, widths: Sequence[int]) -> list[Phase]:
    """The networks, then Adam (6 numbers a parameter: no gradient is written) with inputs, outputs and targets."""
    n_bytes = 4.0 * (6 * n_parameters(widths) * n_networks + n * (widths[0] + 2 * widths[-1]))
    return [Phase(flops=n * network_step_flops(widths)), Phase(update=n_bytes)]


def compositing(n: int, *, has_backward: bool) -> list[Phase]:
    """Density, length, colour and weight of a sample pass once: 24 bytes; 40 more on the way back."""
    return [Phase(read=24.0 * n), *([Phase(read=40.0 * n)] if has_backward else [])]
