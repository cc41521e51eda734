"""The fused training step is the plain one, only faster; and says why where it does not run."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldforge.apps.fit import loop
from fieldforge.apps.fit.fused import NATIVE_LOSSES, FusedStep
from fieldforge.apps.fit.image.job import ImageJob, fit, step_of
from fieldforge.apps.fit.job import Plan
from fieldforge.apps.fit.loop import PlainStep, Progress
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.progress import Silent
from fieldforge.apps.fit.samplers import PixelDraw, offsets
from fieldforge.apps.images import Picture
from fieldforge.backends import use_backend
from fieldforge.fields.file import read_header
from fieldforge.fields.kinds.image import ImageField
from fieldforge.kernels import cpu_door
from fieldforge.kernels.cpu_training import Draw

needs_native = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

PICTURE = Picture.from_array(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))


def untrained(picture: Picture, overrides: Sequence[str] = ()) -> tuple[dict[str, Any], ImageField]:
    """The configuration of a run and its untrained field."""
    job = ImageJob(picture)
    config, _ = job.run_config(Plan(overrides=overrides))
    return config, job.make_field(config, 0)


GRID = "{otype='HashGrid', n_levels=3, log2_hashmap_size=8, n_dims_to_encode=1}"


def run_of(
    overrides: list[str], n_steps: int, backend: str = "auto", hooks: tuple = (), picture: Picture = PICTURE
) -> tuple:
    """(parameters, moments, losses, step, reason) after some steps."""
    config, field = untrained(picture, ["fit.batch_size=512", *overrides])
    with use_backend(backend):
        draw = PixelDraw(picture, FitOptions.of(config["fit"]), 0)
        step, optimizer, reason = step_of(field, config, draw, hooks)
        losses = [step(number, 0.9**number) for number in range(n_steps)]
    return list(field.parameters()), optimizer.state_tensors(), losses, step, reason


def assert_nearly_all_close(one: torch.Tensor, other: torch.Tensor, *, atol: float, rtol: float) -> None:
    """All but a hundredth: where an error is about zero, an absolute loss pulls to either side."""
    is_close = torch.isclose(one, other, atol=atol, rtol=rtol)
    assert int((~is_close).sum()) <= 0.01 * one.numel(), f"{int((~is_close).sum())} of {one.numel()} differ"


def assert_same_course(overrides: list[str], n_steps: int = 6, picture: Picture = PICTURE) -> None:
    """Fused and plain steps end at the same parameters, with the same state of the optimizer."""
    ours, moments, losses, step, reason = run_of(overrides, n_steps, picture=picture)
    theirs, expected_moments, expected_losses, plain, _ = run_of(overrides, n_steps, "reference", picture=picture)
    assert isinstance(step, FusedStep), reason
    assert isinstance(plain, PlainStep)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4, atol=1e-7)
    for one, other in zip(ours, theirs, strict=True):
        assert_nearly_all_close(one, other, atol=2e-4, rtol=1e-3)
        cosine = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
        assert cosine > 0.99999
    assert moments.keys() == expected_moments.keys()
    for name in moments:
        assert_nearly_all_close(moments[name], expected_moments[name], atol=1e-5, rtol=1e-2)


ADAM = "{otype='Adam', learning_rate=0.01, epsilon=1e-6, l2_reg=0.001, skip_zero_grad_non_matrix_params=false%s}"
SGD = "{otype='SGD', learning_rate=0.3, l2_reg=0.001%s}"
OPTIMIZERS = {
    "Adam": ADAM % "",
    "SGD": SGD % "",
    "EMA of Adam": "{otype='EMA', decay=0.9, nested=" + ADAM % "" + "}",
    "ExponentialDecay of an EMA": "{otype='ExponentialDecay', decay_base=0.5, decay_start=2, decay_interval=2, "
    "nested={otype='EMA', decay=0.8, nested=" + SGD % "" + "}}",
    # two matrices of the default network, then a third one and the table
    "Composite": "{otype='EMA', nested={otype='Composite', nested=["
    + ADAM % ", n_params_to_optimize=5120" + "," + SGD % ", n_params_to_optimize=%d" + "]}}",
    "decay and clipping": ADAM % ", relative_decay=0.1, absolute_decay=0.02, clipping_magnitude=0.2, "
    "gradient_clipping_magnitude=1e-4",
    "AdaBound": ADAM % ", adabound=true",
    "rates and pulls by group": ADAM % ", non_matrix_learning_rate_factor=3.0, non_matrix_l2_reg=0.01",
    "only the network": ADAM % ", optimize_non_matrix_params=false",
    "an average of only the table": "{otype='EMA', nested=" + ADAM % ", optimize_matrix_params=false" + "}",
}  # fmt: skip


@needs_native
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("loss", ["L2", "RelativeL1"])
def test_every_optimizer_takes_the_plain_steps(name: str, loss: str) -> None:
    chosen = OPTIMIZERS[name]
    if "%d" in chosen:
        network, encoding = (64, 64, 3), untrained(PICTURE)[1].encoding
        n_features = encoding.n_output_dims
        chosen = chosen.replace("5120", str(n_features * 64 + 64 * 64))
        chosen %= 64 * network[2] + sum(p.numel() for p in encoding.parameters())
    assert_same_course([f"optimizer={chosen}", f"loss.otype={loss}"])


@needs_native
@pytest.mark.parametrize("loss", [one.otype for one in NATIVE_LOSSES])
def test_every_loss_takes_the_plain_steps(loss: str) -> None:
    positive = ["network.output_activation=Exponential"] if loss in ("CrossEntropy", "Variance") else []
    assert_same_course([f"loss.otype={loss}", "optimizer.epsilon=1e-6", "optimizer.l2_reg=0.001", *positive])


@needs_native
@pytest.mark.parametrize(
    "more",
    [
        ["network.has_bias=true", "network.activation=SiLU"],
        ["encoding={otype='Frequency', n_frequencies=4}"],
        [f"encoding={{otype='Composite', nested=[{GRID}, {GRID}, {{otype='OneBlob', n_dims_to_encode=0}}]}}"],
        # zero gradients are skipped in tables only, and here is none
        ["encoding={otype='Identity'}", "optimizer={otype='Adam', epsilon=1e-6}"],
    ],
)
def test_other_networks_and_encodings_take_the_plain_steps(more: list[str]) -> None:
    assert_same_course(["optimizer.epsilon=1e-6", "optimizer.l2_reg=0.001", *more])


@needs_native
def test_light_takes_the_plain_steps() -> None:
    """Pictures in linear light scale the outputs of the network and have a relative loss."""
    rng = np.random.default_rng(0)
    light = Picture.from_array(rng.gamma(0.5, 20.0, (40, 50, 3)).astype(np.float32), color_space="linear")
    assert untrained(light)[1].output_scale != [1.0] * 3
    assert_same_course(["optimizer.epsilon=1e-6"], picture=light)


@needs_native
@pytest.mark.parametrize("jitter", [0.0, 0.25, 1.0])
@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 9, 3), (5, 1, 2), (40, 50, 3), (64, 64, 4), (333, 211, 3)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_native_draw_is_that_of_the_sampler(dtype: type, shape: tuple[int, int, int], jitter: float) -> None:
    """The same samples, points and colours to the last bit, at any step."""
    rng = np.random.default_rng(0)
    pixels = rng.random(shape).astype(np.float32) * 3 if dtype is np.float32 else rng.integers(0, 255, shape, dtype)
    picture = Picture.from_array(pixels)
    height, width, _ = shape
    field = ImageField(encoding="Identity", network="MLP", width=width, height=height)
    for seed, step in ((0, 0), (1, 3), (2**31 - 1, 77), (5, 10**7 + 1)):
        draw = PixelDraw(picture, FitOptions(batch_size=517, jitter=jitter), seed)
        points, target = draw(step)
        native = Draw(picture.pixels, picture.one, 517, seed, draw.n_moved)
        x, native_target = native.batch(step)
        assert torch.equal(x, field.to_unit(points).clamp(0, 1))
        assert torch.equal(native_target, target)


def test_offsets_are_spread_evenly() -> None:
    """By steps and seeds; neighbours do not know of each other."""
    n = 2**16
    for seed, first in ((0, 0), (1, 0), (0, 10**9)):
        one = offsets(torch.arange(first, first + n), seed).double()
        assert float(one.min()) >= 0
        assert float(one.max()) < 1
        cells = (one * 16).long()
        counts = torch.bincount(cells[:, 0] * 16 + cells[:, 1], minlength=256).double()
        assert float(((counts - n / 256) ** 2 / (n / 256)).sum()) < 255 + 5 * (2 * 255) ** 0.5
        other = offsets(torch.arange(first, first + n), seed + 1).double()
        columns = torch.stack([*one[1:].T, *one[:-1].T, *other[1:].T])
        correlation = torch.corrcoef(columns) - torch.eye(6)
        assert float(correlation.abs().max()) < 5 / n**0.5


@needs_native
def test_hooks_see_and_veto_the_fused_step_as_the_plain_one() -> None:
    seen: dict[str, list[torch.Tensor]] = {"auto": [], "reference": []}
    ends = {}
    for backend, rows in seen.items():

        def watch(step: int, loss: torch.Tensor, rows: list[torch.Tensor] = rows) -> bool | None:
            rows.append(loss)
            return None if step % 2 else step != 4

        *ends[backend], _, _ = run_of(["optimizer.epsilon=1e-6"], 6, backend, (watch,))
    for one, other in zip(seen["auto"], seen["reference"], strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    for one, other in zip(ends["auto"][0], ends["reference"][0], strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)
    assert int(ends["auto"][1]["n_steps_done"]) == int(ends["reference"][1]["n_steps_done"]) == 5


@needs_native
@pytest.mark.parametrize("optimizer", [ADAM % "", SGD % ""])
def test_a_layer_with_a_pace_of_its_own_keeps_it(optimizer: str) -> None:
    """Native rules have no factor, so that such a step is a plain one."""
    moved = {}
    for factor in (1.0, 3.0):
        config, field = untrained(PICTURE, [f"optimizer={optimizer}"])
        layer = field.network.layers[1]
        layer.learning_rate_factors = {"weight": factor}
        before = layer.weight.detach().clone()
        training = step_of(field, config, PixelDraw(PICTURE, FitOptions(batch_size=64), 0))
        assert "pace of their own" in training.why_not_fused
        training.advance(0, 1.0)
        moved[factor] = layer.weight.detach() - before
    torch.testing.assert_close(moved[3.0], 3 * moved[1.0], atol=1e-6, rtol=1e-3)


@needs_native
@pytest.mark.parametrize("optimizer", ["Adam", "EMA of Adam", "Composite of both"])
def test_an_interrupted_fit_ends_with_the_bits_of_one_that_was_not(
    optimizer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with any number of threads."""
    chosen = {"Adam": ADAM % "", "EMA of Adam": OPTIMIZERS["EMA of Adam"]}.get(optimizer)
    overrides = ["fit.batch_size=300", *([f"optimizer={chosen}"] if chosen else [])]
    if not chosen:
        field = untrained(PICTURE)[1]
        first, second = (sum(p.numel() for p in part.parameters()) for part in (field.network, field.encoding))
        shares = f"[{SGD % f', n_params_to_optimize={first}'}, {ADAM % f', n_params_to_optimize={second}'}]"
        overrides.append(f"optimizer={{otype='Composite', nested={shares}}}")

    class Interrupt(Silent):
        def __call__(self, progress: Progress) -> None:
            if progress.state.step == 7:
                os.kill(os.getpid(), signal.SIGINT)

    def end(name: str, n_threads: int, **options: Any) -> bytes:
        monkeypatch.setenv("FIELDFORGE_NUM_THREADS", str(n_threads))
        monkeypatch.setattr(loop.train, "__kwdefaults__", loop.train.__kwdefaults__ | {"report_every": 0.0})
        fit(PICTURE, output=tmp_path / name, steps=20, overrides=overrides, **{"progress": "quiet"} | options)
        return (tmp_path / name).read_bytes() if (tmp_path / name).exists() else b""

    whole = end("whole.field", 1)
    assert end("whole.field", 2) == end("whole.field", 3) == whole
    assert end("parts.field", 1, progress=Interrupt()) == b""
    assert end("parts.field", 3, resume=True) == whole


MEMORY = """
import resource, sys
import numpy as np
from fieldforge.apps.fit.image.job import fit

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) * 1024

picture = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
fit(picture, steps=2, progress="quiet")
before = peak()
grid = "encoding={otype='HashGrid', n_levels=%d, log2_hashmap_size=%d, base_resolution=2048, per_level_scale=1.3}"
fit(picture, output=sys.argv[3], steps=40, overrides=[grid % (int(sys.argv[1]), int(sys.argv[2]))], progress="quiet")
print(peak() - before)
"""


@needs_native
@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc on this system")
@pytest.mark.parametrize(("n_levels", "log2_size"), [(1, 22), (8, 19)])
def test_a_fit_takes_four_times_the_memory_of_its_field(n_levels: int, log2_size: int, tmp_path: Path) -> None:
    """Parameters, gradient and two moments, the encodings of a batch, and 64 MiB."""
    arguments = (str(n_levels), str(log2_size), str(tmp_path / "x.field"))
    done = subprocess.run([sys.executable, "-c", MEMORY, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    n_bytes = 4 * 2 * n_levels * 2**log2_size
    assert int(done.stdout) < 4 * n_bytes + 2048 * 4 * 2 * n_levels + 64 * 2**20


COMMAND = """
import sys
from fieldforge.apps.cli import main

assert main(sys.argv[1:]) == 0
print("sympy" in sys.modules, open("/proc/self/status").read().split("VmHWM:")[1].split()[0])
"""


def peak_of_command(*arguments: str) -> int:
    """Bytes that a command takes at most, in a process that never imports sympy."""
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    has_sympy, kibibytes = done.stdout.split()[-2:]
    assert has_sympy == "False", "torch imports it for some operations on the meta device: 2 s and 40 MiB"
    return int(kibibytes) * 1024


@needs_native
@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="no /proc on this system")
def test_the_whole_command_takes_little_beside_its_field(tmp_path: Path) -> None:
    """Start to saved file, with every look at the quality; above the same program that prints its configuration."""
    photo = Path(__file__).resolve().parents[2] / "data/images/astronaut.png"
    path = tmp_path / "x.field"
    command = ["fit", "image", str(photo), "--psnr", "30", "--no-report", "-o", str(path), "--quiet"]
    program, whole = peak_of_command(*command, "--print-config"), peak_of_command(*command)
    header = read_header(path)
    n_parameters = sum(math.prod(one.shape) for name, one in header.tensors.items() if not name.endswith(":step"))
    grid = header.config["encoding"]
    features = 8192 * grid["n_levels"] * grid["n_features_per_level"]
    assert whole - program < 4 * (4 * n_parameters + features) + 64 * 2**20


@needs_native
def test_what_a_hook_raises_comes_out_of_the_step() -> None:
    def stumble(step: int, loss: torch.Tensor) -> None:
        raise ZeroDivisionError("in a hook")

    with pytest.raises(ZeroDivisionError, match="in a hook"):
        run_of([], 1, hooks=(stumble,))


@needs_native
@pytest.mark.parametrize("encoding", ["{otype='HashGrid', n_levels=4}", "{otype='TensorCP'}"])
def test_frozen_features_are_inputs_like_any_other(encoding: str) -> None:
    overrides = ["fit.batch_size=512", f"encoding={encoding}"]
    found = []
    for backend in ("auto", "reference"):
        config, field = untrained(PICTURE, overrides)
        field.encoding.requires_grad_(False)
        before = [parameter.clone() for parameter in field.encoding.parameters()]
        with use_backend(backend):
            draw = PixelDraw(PICTURE, FitOptions.of(config["fit"]), 0)
            step, _, reason = step_of(field, config, draw, ())
            losses = [step(number, 1.0) for number in range(4)]
        assert isinstance(step, FusedStep if backend == "auto" else PlainStep), reason
        assert all(torch.equal(a, b) for a, b in zip(before, field.encoding.parameters(), strict=True))
        found.append((losses, list(field.network.parameters())))
    np.testing.assert_allclose(found[0][0], found[1][0], rtol=1e-4)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)


@needs_native
def test_plain_can_go_on_where_fused_stopped() -> None:
    """Counters and moments are the optimizer's own."""
    _, moments, _, _, _ = run_of([], 3)
    assert int(moments["n_steps_done"]) == 3


@needs_native
def test_fused_fields_answer_like_their_parts() -> None:
    _, field = untrained(PICTURE)
    torch.nn.init.normal_(field.encoding.table)
    points = torch.rand(3, 70, 2) * 40
    with use_backend("reference"):
        expected = field.color(points)
    torch.testing.assert_close(field.color(points), expected, atol=1e-5, rtol=1e-4)
    assert field.color(points[:, :0]).shape == (3, 0, 3)


@needs_native
def test_second_derivatives_of_a_fused_field() -> None:
    """The reference takes over inside: grad of grad equals that of the parts."""
    overrides = ["encoding.interpolation=Smoothstep", "network.activation=SiLU"]
    field = untrained(PICTURE, overrides)[1]
    torch.nn.init.normal_(field.encoding.table)
    points = torch.rand(20, 2) * 40

    def twice(backend: str) -> list[torch.Tensor]:
        at = points.clone().requires_grad_()
        with use_backend(backend):
            (slope,) = torch.autograd.grad(field.color(at).sum(), at, create_graph=True)
            return list(torch.autograd.grad((slope**2).sum(), [at, *field.parameters()]))

    for one, other in zip(twice("auto"), twice("reference"), strict=True):
        torch.testing.assert_close(one, other, atol=1e-2, rtol=1e-2)


@needs_native
@pytest.mark.parametrize(
    ("overrides", "reason"),
    [
        (["encoding={otype='TensorCP'}"], "TensorCP has parameters"),
        (["optimizer.skip_zero_grad_non_matrix_params=true"], "skips the entries"),
        (["optimizer={otype='Novograd'}"], "the optimizer Novograd"),
        (["optimizer={otype='EMA', nested={otype='Lookahead'}}"], "the optimizer Lookahead"),
        (["optimizer={otype='EMA', nested={otype='EMA', nested='SGD'}}"], "an EMA of averages"),
        (["network.input_injection=all"], "input injection"),
        (["network.n_hidden_layers=70", "network.n_neurons=4"], "at most 64 layers"),
        (["network.activation=WIRE", "optimizer.learning_rate=0.001"], "activation WIRE"),
    ],
)
def test_the_reason_for_plain_steps_is_said(overrides: list[str], reason: str) -> None:
    *_, step, said = run_of(overrides, 1)
    assert isinstance(step, PlainStep)
    assert reason in said


def test_the_reference_is_not_fused() -> None:
    *_, step, said = run_of([], 1, "reference")
    assert isinstance(step, PlainStep)
    assert said
