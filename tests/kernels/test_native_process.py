"""What must hold of a process: any number of threads, any instruction set, forks, several callers at once."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldforge.encodings.grid import Grid, grid, grid_levels
from fieldforge.kernels import cpu_door, cpu_ops
from fieldforge.kernels.cpu_ops import GridShape, MlpShape
from fieldforge.kernels.cpu_training import Draw, Moved, Mover, Rule, TrainingStep

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

HERE = Path(__file__).parent
PARTS = (
    "bf16", "cells", "encodings", "fuzz", "grid", "limits", "marching", "mlp", "radiance", "rendering", "second",
    "stacked", "training",
)  # fmt: skip
BEYOND_THE_SYSTEM = "FIELDFORGE_CPU: expected one of "


def everything(n_points: int = 2500) -> list[torch.Tensor]:
    """Values, gradients and parameters after a few steps, of a field behind a grid."""
    generator = torch.Generator().manual_seed(0)
    encoding = Grid(3, n_levels=3, log2_hashmap_size=9, base_resolution=4)
    table = torch.empty(encoding.table.shape).uniform_(-1, 1, generator=generator).requires_grad_()
    x = torch.rand(n_points, 3, generator=generator, requires_grad=True)
    widths = (6, 20, 20, 2)
    weights = [torch.randn(b, a, generator=generator) / a**0.5 for a, b in itertools.pairwise(widths)]
    weights = [weight.requires_grad_() for weight in weights]
    shapes = GridShape(tuple(encoding.levels), 3, 2), MlpShape(widths, "Sine", 3.0, 3.0)
    out = cpu_ops.field(x, table, shapes[0], weights, [], shapes[1], reference=lambda *_: torch.empty(0))
    features = cpu_ops.grid(x, table, encoding.levels, "Linear", reference=grid)
    grads = torch.autograd.grad(out.sum() + features.square().sum(), [x, table, *weights])
    beside = [Moved(*(torch.zeros_like(p.detach()) for _ in range(3))) for p in (table, *weights)]
    step = TrainingStep(weights, [], shapes[1], table=table, grid_shape=shapes[0], moved=beside)
    rules = [Rule(Mover.ADAM, rate=1e-2, beta1=0.9, beta2=0.99, epsilon=1e-15, newest=0.1)] * 4
    losses = [step.on_points(x, torch.ones(n_points, 2), rules).loss for _ in range(2)]
    draw = Draw(np.arange(5 * 7 * 3 * 2, dtype=np.float32).reshape(5, 7, 3, 2), 100.0, n_points, seed=1)
    losses += [step.on_draw(draw, number, rules).loss for number in range(2)]
    picture = Draw(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3), 255, n_points, seed=1, n_moved=n_points // 3)
    averages = [one.average for one in beside if one.average is not None]
    trained = [*step.parameters, *averages, torch.tensor(losses, dtype=torch.float64), *picture.batch(4)]
    return [out.detach(), features.detach(), *grads, *trained]


@pytest.mark.parametrize("n_points", [1, 700, 5001])
def test_any_number_of_threads_gives_the_same_bits(n_points: int, monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for n_threads in ("1", "2", "3", "8"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        results.append(everything(n_points))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_callers_in_several_python_threads_do_not_disturb_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "2")
    expected = everything()
    found: list[list[torch.Tensor]] = []
    callers = [threading.Thread(target=lambda: found.append(everything())) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 3
    for result in found:
        assert all(torch.equal(a, b) for a, b in zip(expected, result, strict=True))


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_child_computes_with_threads_of_its_own() -> None:
    done = run_python(
        """
import os, signal, warnings
warnings.simplefilter("ignore")
import torch
torch.set_num_threads(1)
from test_native_process import everything
before = everything()          # the pool's threads exist now, in the parent
child = os.fork()
if child == 0:
    signal.alarm(60)           # a child that waits for threads it does not have would never end
    same = all(torch.equal(a, b) for a, b in zip(before, everything(), strict=True))
    os._exit(0 if same else 3)
_, status = os.waitpid(child, 0)
after = everything()
print(os.waitstatus_to_exitcode(status), all(torch.equal(a, b) for a, b in zip(before, after, strict=True)))
""",
        FIELDFORGE_NUM_THREADS="3",
    )
    assert done.stdout.split() == ["0", "True"], done.stderr


@pytest.mark.parametrize("name", ["v2", "v3", "v4"])
def test_every_instruction_set_passes_these_tests(name: str) -> None:
    """The files beside this one run in this process with one set; here they run with the others."""
    question = (
        "from fieldforge.kernels import cpu_door; print(cpu_door.missing() or cpu_door.native().instruction_set())"
    )
    answer = run_python(question, FIELDFORGE_CPU=name).stdout.strip()
    if answer.startswith(BEYOND_THE_SYSTEM):
        pytest.skip(f"no device: {answer}")
    assert answer == f"x86-64-{name}"
    if answer == cpu_door.native().instruction_set():
        return
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-x", "-q", "-m", "not slow", "-p", "no:cacheprovider",
         *(str(HERE / f"test_native_{part}.py") for part in PARTS)],
        env=os.environ | {"FIELDFORGE_CPU": name, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]


def test_an_unknown_instruction_set_is_a_reason_not_a_crash() -> None:
    code = "from fieldforge.kernels import cpu_door; print(cpu_door.missing())"
    answer = run_python(code, FIELDFORGE_CPU="v9").stdout
    assert answer.startswith(BEYOND_THE_SYSTEM)
    assert "got 'v9'" in answer


def test_a_wrong_number_of_threads_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "many")
    with pytest.raises(ValueError, match=r"FIELDFORGE_NUM_THREADS: expected an integer from 1 to 1024, got 'many'"):
        cpu_door.n_threads()


def test_the_number_of_threads_may_change_from_call_to_call(monkeypatch: pytest.MonkeyPatch) -> None:
    expected = everything(700)
    for n_threads in ("5", "1", "9", "2", "64", "3"):
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", n_threads)
        assert all(torch.equal(a, b) for a, b in zip(expected, everything(700), strict=True))


def test_an_idle_pool_costs_no_processor_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processor time, not wall time: other processes do not matter."""
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "4")
    everything()
    time.sleep(0.05)  # past the few microseconds in which threads look for more work
    start = time.process_time()
    time.sleep(1)
    assert time.process_time() - start < 0.05


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no device: needs /proc")
def test_a_python_thread_that_ends_gives_its_memory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "1")
    levels = grid_levels(2, n_levels=16, log2_hashmap_size=8)
    table = torch.rand(sum(level.size for level in levels), 4, requires_grad=True)
    x, grad = torch.rand(160_000, 2), torch.ones(160_000, 64)  # some 44 MB of scratch; malloc keeps less than 32

    def call() -> None:
        torch.autograd.grad(cpu_ops.grid(x, table, levels, "Linear", reference=grid), table, grad)

    def in_a_thread() -> None:
        caller = threading.Thread(target=call)
        caller.start()
        caller.join()

    in_a_thread()
    before = resident_bytes()
    for _ in range(3):
        in_a_thread()
    assert resident_bytes() - before < 80e6


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="no device: needs /proc")
def test_the_pools_threads_have_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "3")
    everything()
    names = {path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")}
    assert {"fieldforge 1", "fieldforge 2"} <= names
