"""The benchmark of the native kernels: its arithmetic, its peers, and that it runs."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fieldforge.apps.bench import main
from fieldforge.apps.bench.cpu import floors, plain_fit, rows_of_run, work
from fieldforge.apps.bench.cpu.table import failures, lines
from fieldforge.apps.bench.cpu.work import OURS, Work, difference, measure, passes
from fieldforge.apps.bench.harness import latest, one_thread, save
from fieldforge.apps.bench.peers import PlainStack, plain_composite, plain_march
from fieldforge.apps.bench.report import write_tables
from fieldforge.apps.fit.image.presets import preset
from fieldforge.kernels import cpu_door
from fieldforge.kernels.cpu_limits import MIB, Limits

is_native = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

LIMITS = Limits(
    multiply_add=234e9, bfloat16_dot=466e9, dram_read=33e9, dram_update=45e9, l3_read=93e9, l2_read=200e9,
    gathers={MIB: 2.1e9, 4 * MIB: 1.6e9}, scatter_adds={MIB: 2.1e9, 4 * MIB: 1.4e9},
)  # fmt: skip
"""Of one machine on which the kernels were designed."""


def test_the_floor_of_a_field_is_that_of_its_phases() -> None:
    """64 gathers at 2.1 G/s and 12672 operations at 234 GFLOP/s a point; a step adds scatter-adds and Adam."""
    widths, n = (32, 64, 64, 3), 2**16
    gathers, network = 64 / 2.1, 12672 / 234
    inference = floors.floor(floors.grid_inference(n, 2, 16, MIB, widths), LIMITS)
    assert 1e9 * inference / n == pytest.approx(gathers + network)
    adam = 28 * (16 * 2**18 + 12672 // 2) / n / 45
    step = floors.floor(floors.grid_step(n, 2, 16, MIB, widths), LIMITS)
    assert 1e9 * step / n == pytest.approx(2 * gathers + 3 * network + adam)


def test_a_phase_takes_as_long_as_its_slowest_part() -> None:
    assert floors.Phase(flops=234e9, read=66e9).seconds(LIMITS) == 2
    assert floors.Phase(flops=3 * 234e9, read=66e9).seconds(LIMITS) == 3
    assert floors.Phase(flops=466e9, is_bfloat16=True).seconds(LIMITS) == 1
    assert floors.Phase(gathers={4 * MIB: 1.6e9}, scatter_adds={4 * MIB: 1.4e9}).seconds(LIMITS) == 2


@pytest.mark.parametrize(("size", "rate"), [(8, 2.1e9), (MIB, 2.1e9), (2 * MIB, 1.6e9), (64 * MIB, 1.6e9)])
def test_a_table_has_the_rate_of_the_next_larger_one(size: int, rate: float) -> None:
    assert floors.rate_of(LIMITS.gathers, size) == rate


def test_the_gate_is_at_three_fifths_of_the_target() -> None:
    assert passes(9.0, 15.0)
    assert not passes(8.99, 15.0)


def test_a_missed_gate_is_said_with_its_figures() -> None:
    x = torch.full((2**16,), 0.5)
    summing = Work(2**16, {}, (1e9, None), plain=lambda: x.sum(), ours=lambda: x.sum())
    rows = [asdict(row) for row in measure("case", summing, LIMITS, repeats=2, n_runs=1)]
    (sentence,) = failures(rows)
    assert sentence.startswith("case: ")
    assert sentence.endswith("x plain PyTorch, gate 6e+08x plain PyTorch")
    assert "1e+09x, MISSED" in lines(rows)[1]
    assert not failures([row for row in rows if row["candidate"] != OURS])


def test_candidates_that_compute_something_else_are_refused() -> None:
    other = Work(1, {}, (1.0, None), plain=lambda: torch.ones(3), ours=lambda: torch.tensor([1.0, 1.0, 1.1]))
    with pytest.raises(ValueError, match=r"case: ours and plain PyTorch differ by 0\.1, more than 0\.01"):
        measure("case", other, LIMITS, repeats=1)


def test_threads_are_as_before_after_both_numbers_were_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    monkeypatch.setattr(work, "has_two_free_cores", lambda: True)
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", "7")
    assert work.two_threads(lambda: seen.append(cpu_door.n_threads()) or 0.0, repeats=1) > 0
    assert seen == [1, 1, 2, 2]
    assert cpu_door.n_threads() == 7
    monkeypatch.setattr(work, "has_two_free_cores", lambda: False)
    assert work.two_threads(lambda: 0.0) is None


def test_nan_and_other_shapes_differ() -> None:
    assert not difference(float("nan"), 1.0) <= 1
    assert difference(torch.ones(3), torch.ones(1)) == float("inf")


def test_both_ways_to_run_a_plain_stack_give_the_same() -> None:
    offsets = torch.tensor([0, 3, 3, 10])
    stack, x = PlainStack((5, 4, 2), offsets), torch.rand(10, 5)
    for number in range(3):
        rows = slice(int(offsets[number]), int(offsets[number + 1]))
        hidden = torch.relu(x[rows] @ stack.weights[0][number] + stack.biases[0][number])
        expected = hidden @ stack.weights[1][number] + stack.biases[1][number]
        torch.testing.assert_close(stack(x)[rows], expected)
        torch.testing.assert_close(stack.one_by_one(x)[rows], expected)


def test_plain_compositing_absorbs_as_the_formula_says() -> None:
    t0 = torch.tensor([0.0, 1.0, 0.0])
    color, opacity, depth = plain_composite(
        torch.tensor([1.0, 2.0, 3.0]), torch.eye(3), t0, t0 + 1, torch.tensor([0, 2, 2, 3]), torch.tensor([0, 0, 2])
    )
    a, b, c = 1 - torch.exp(-torch.tensor([1.0, 2.0, 3.0]))
    expected = torch.stack([torch.stack([a, (1 - a) * b, 0 * a]), torch.zeros(3), torch.stack([0 * a, 0 * a, c])])
    torch.testing.assert_close(color, expected)
    torch.testing.assert_close(opacity, expected.sum(1))
    torch.testing.assert_close(depth, torch.stack([0.5 * a + 1.5 * (1 - a) * b, 0 * a, 0.5 * c]))


def test_the_plain_march_keeps_the_samples_in_occupied_cells() -> None:
    occupied = torch.zeros(4, 4, 4, dtype=torch.bool)
    occupied[1, 2, 2] = True
    origins = torch.tensor([[-1.0, 0.6, 0.6], [-1.0, 0.1, 0.6]])
    ray, t = plain_march(origins, torch.tensor([[1.0, 1e-9, 1e-9]] * 2), occupied, 0.12, 20)
    assert ray.tolist() == [0, 0]
    torch.testing.assert_close(t, torch.tensor([1.30, 1.42]))


def test_the_plain_program_fits_a_photo(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    y, x = np.mgrid[0:32, 0:48]
    Image.fromarray(np.stack([5 * x, 7 * y, x + y], -1).astype(np.uint8)).save(tmp_path / "x.png")
    config = preset("fast", 48, 32)
    with one_thread():
        plain_fit.main(str(tmp_path / "x.png"), str(tmp_path / "x.pt"), json.dumps(config), "25")
    answer = json.loads(capsys.readouterr().out)
    assert answer["psnr"] >= 25
    assert answer["steps"] < config["fit"]["n_steps"]
    assert (tmp_path / "x.pt").stat().st_size > 1000


@is_native
def test_a_quick_run_writes_rows_and_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = rows_of_run(is_quick=True, only=("W1", "W2", "W3", "W4", "W5"))
    save(tmp_path, "cpu", rows)
    kept = latest(tmp_path, "cpu")
    cases = {row["case"] for row in kept if row["candidate"] == OURS}
    assert any(case.startswith("W1 inference, 2-D") for case in cases)
    assert any(case.startswith("W3 step, Sine") for case in cases)
    said = capsys.readouterr().out
    assert all(case in said for case in cases)
    for row in kept:
        if row["candidate"] == OURS:
            assert row["quality"]["ratio"] > 0
            assert row["seconds"] > 0
    assert "nan" not in (tmp_path / "cpu.jsonl").read_text().lower()
    readme = tmp_path / "README.md"
    readme.write_text("<!-- bench:cpu -->\n<!-- /bench -->\n")
    write_tables(tmp_path, readme)
    assert sum(line.startswith("| W") for line in readme.read_text().splitlines()) == len(cases)
    assert "One core: multiply-add" in readme.read_text()


def test_parts_and_repeats_are_for_the_suites_that_have_them(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"only: is for the suites cpu, gpu, scene, .*, not 'image'"):
        main("image", rows=tmp_path, data=None, is_quick=True, only=("W1",))
    with pytest.raises(ValueError, match="repeats: is for the suite 'cpu', not 'scene'"):
        main("scene", rows=tmp_path, data=None, is_quick=True, repeats=3)


def test_an_unknown_work_is_named() -> None:
    with pytest.raises(ValueError, match="only: "):
        rows_of_run(is_quick=True, only=("W9",))
