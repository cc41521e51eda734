"""The loops that measure a core do their work, and what they find could be a core's."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from fieldforge.kernels import cpu_door, cpu_limits

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")


def aligned(n: int) -> torch.Tensor:
    """n zeros that begin with a cache line."""
    memory = torch.zeros(n + 16)
    first = -memory.data_ptr() % 64 // 4
    return memory[first : first + n]


def test_limits_are_those_of_a_core() -> None:
    limits = cpu_limits.measure(seconds=0.002, repeats=2)
    assert 1e9 < limits.multiply_add < 1e12
    assert limits.bfloat16_dot is None or limits.bfloat16_dot > limits.multiply_add / 4
    for rate in (limits.dram_read, limits.dram_update, limits.l3_read, limits.l2_read):
        assert 1e8 < rate < 1e12
    assert set(limits.gathers) == set(limits.scatter_adds) == set(cpu_limits.TABLES)
    assert all(1e6 < rate < 1e11 for rate in (*limits.gathers.values(), *limits.scatter_adds.values()))
    assert dataclasses.asdict(limits)["gathers"] == limits.gathers


def test_every_float_is_read_and_updated_in_each_pass() -> None:
    loops = cpu_door.native().limits
    memory = aligned(512)
    memory += torch.arange(512) % 7
    assert loops.read(memory.data_ptr(), 512, 3) == 3 * float(memory.sum())
    memory.zero_()
    loops.update(memory.data_ptr(), 512, 5)
    torch.testing.assert_close(memory, torch.full((512,), 5e-9))


def test_scatter_adds_reach_all_of_a_table_equally() -> None:
    table = aligned(2 * 256)
    cpu_door.native().limits.scatter_adds(table.data_ptr(), 256, 2**18)
    counts = (table.view(256, 2) / 1e-9)[:, 0]
    assert counts.sum() == pytest.approx(2**18, rel=1e-3)
    assert 0.8 * 1024 < counts.min()
    assert counts.max() < 1.2 * 1024


def test_gathers_add_up_what_they_find() -> None:
    table = torch.full((2 * 1024,), 0.25)
    assert cpu_door.native().limits.gathers(table.data_ptr(), 1024, 4000) == 2000


@pytest.mark.parametrize(
    ("name", "arguments"),
    [("read", (64, 100, 1)), ("read", (3, 256, 1)), ("gathers", (64, 1000, 4)), ("scatter_adds", (64, 1024, 3))],
)
def test_wrong_sizes_are_refused(name: str, arguments: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected"):
        getattr(cpu_door.native().limits, name)(*arguments)
