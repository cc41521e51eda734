"""The fused training step is the plain one, only faster; and says why where it does not run."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fieldforge.apps.fit.fused import FusedStep
from fieldforge.apps.fit.image import step_of
from fieldforge.apps.fit.loop import PlainStep
from fieldforge.apps.fit.options import FitOptions
from fieldforge.apps.fit.recipe import make_field, run_config
from fieldforge.apps.fit.samplers import PixelDraw
from fieldforge.apps.images import Picture
from fieldforge.backends import use_backend
from fieldforge.kernels import cpu_door

needs_native = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

PICTURE = Picture.from_array(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8))

GRID = "{otype='HashGrid', n_levels=3, log2_hashmap_size=8, n_dims_to_encode=1}"


def run_of(overrides: list[str], n_steps: int, backend: str = "auto", hooks: tuple = ()) -> tuple:
    """(parameters, moments, losses, step, reason) after some steps."""
    config, _ = run_config(PICTURE, overrides=["fit.batch_size=512", *overrides])
    field = make_field(config, PICTURE, 0)
    with use_backend(backend):
        draw = PixelDraw(PICTURE, FitOptions.of(config["fit"]), 0)
        step, optimizer, reason = step_of(field, config, draw, hooks)
        losses = [step(number, 0.9**number) for number in range(n_steps)]
    return list(field.parameters()), optimizer.state_tensors(), losses, step, reason


@needs_native
@pytest.mark.parametrize("loss", ["L2", "L1", "Huber", "RelativeL2"])
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["network.has_bias=true", "network.activation=SiLU"],
        ["encoding={otype='Frequency', n_frequencies=4}"],
        [f"encoding={{otype='Composite', nested=[{GRID}, {GRID}, {{otype='OneBlob', n_dims_to_encode=0}}]}}"],
    ],
)
def test_fused_steps_are_plain_steps(loss: str, more: list[str]) -> None:
    overrides = [f"loss.otype={loss}", "optimizer.epsilon=1e-6", "optimizer.l2_reg=0.001", *more]
    ours, moments, losses, step, reason = run_of(overrides, 6)
    theirs, expected_moments, expected_losses, plain, _ = run_of(overrides, 6, "reference")
    assert isinstance(step, FusedStep), reason
    assert isinstance(plain, PlainStep)
    np.testing.assert_allclose(losses, expected_losses, rtol=1e-4)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-4, rtol=1e-3)
        cosine = torch.nn.functional.cosine_similarity(one.flatten(), other.flatten(), dim=0)
        assert cosine > 0.99999
    assert moments.keys() == expected_moments.keys()
    for name in moments:
        torch.testing.assert_close(moments[name], expected_moments[name], atol=1e-5, rtol=1e-2)


@needs_native
@pytest.mark.parametrize("encoding", ["{otype='HashGrid', n_levels=4}", "{otype='TensorCP'}"])
def test_frozen_features_are_inputs_like_any_other(encoding: str) -> None:
    config, _ = run_config(PICTURE, overrides=["fit.batch_size=512", f"encoding={encoding}"])
    found = []
    for backend in ("auto", "reference"):
        field = make_field(config, PICTURE, 0)
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
    config, _ = run_config(PICTURE)
    field = make_field(config, PICTURE, 0)
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
    field = make_field(run_config(PICTURE, overrides=overrides)[0], PICTURE, 0)
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
    ("overrides", "hooks", "reason"),
    [
        (["loss.otype=MAPE"], (), "the loss MAPE"),
        (["encoding={otype='TensorCP'}"], (), "TensorCP has parameters"),
        (["optimizer.adabound=true"], (), "keys beyond"),
        (["network.input_injection=all"], (), "input injection"),
        (["network.n_hidden_layers=70", "network.n_neurons=4"], (), "at most 64 layers"),
        (["network.activation=WIRE", "optimizer.learning_rate=0.001"], (), "activation WIRE"),
        ([], (lambda step, loss: None,), "hooks"),
    ],
)
def test_the_reason_for_plain_steps_is_said(overrides: list[str], hooks: tuple, reason: str) -> None:
    *_, step, said = run_of(overrides, 1, hooks=hooks)
    assert isinstance(step, PlainStep)
    assert reason in said


def test_the_reference_is_not_fused() -> None:
    *_, step, said = run_of([], 1, "reference")
    assert isinstance(step, PlainStep)
    assert said
