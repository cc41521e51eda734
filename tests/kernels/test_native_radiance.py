"""Native rendering and training of radiance fields agree with loops in float64 and with the plain renderer."""

from __future__ import annotations

import functools
import itertools
import math
from typing import Any

import pytest
import torch
from reference.radiance import render_ray
from reference.spaces import contract
from torch import Tensor

from fieldforge.apps.render.radiance import asked_along, native_renderer, parts_of, shape_of
from fieldforge.encodings.grid import Grid, grid
from fieldforge.fields.kinds.radiance import RadianceField
from fieldforge.fields.space import NORMS, Contraction, Norm
from fieldforge.kernels import cpu_door
from fieldforge.kernels.cpu_radiance import RadianceRenderer, Seen, Sights
from fieldforge.kernels.cpu_training import Moved, Mover, Rule
from fieldforge.renderers import volume
from fieldforge.renderers.marching import march
from fieldforge.renderers.occupancy import OccupancyGrid
from fieldforge.renderers.samples import Samples

pytestmark = pytest.mark.skipif(cpu_door.missing() is not None, reason=f"no native kernels: {cpu_door.missing()}")

LOW, HIGH = [-1.0, -0.5, 0.0], [1.0, 1.5, 1.0]
RATE = 1000.0  # so that gradients are not lost beside the parameters that they move
SGD = Rule(Mover.SGD, rate=RATE)


MOVING: dict[str, Any] = {
    "encoding": {
        "otype": "TimeGrid", "n_levels": 2, "log2_hashmap_size": 8, "base_resolution": 4, "n_time_levels": 2,
        "time_base_resolution": 3, "time_resolution": 5, "log2_time_hashmap_size": 8,
    },
    "duration": 1.0, "appearance": 5, "n_photos": 3,
}  # fmt: skip
"""What a field has that changes with time and with the photo."""


def make(seed: int = 0, *, thickness: float = 1.0, **keywords: Any) -> RadianceField:
    """A small field whose density varies between fog and wall."""
    network = {"otype": "MLP", "n_neurons": 17, "n_hidden_layers": 1, "has_bias": True}
    given: dict[str, Any] = {
        "encoding": {"otype": "HashGrid", "n_levels": 3, "log2_hashmap_size": 8, "base_resolution": 4},
        "network": network,
        "rgb_network": network | {"n_hidden_layers": 2, "output_activation": "Sigmoid"},
        "dir_encoding": {"otype": "SphericalHarmonics", "degree": 3},
        "n_geometry": 7,
    }
    generator = torch.Generator().manual_seed(seed)
    field = RadianceField(**given | {"low": LOW, "high": HIGH, "generator": generator} | keywords)
    with torch.no_grad():
        for table in field.encoding.parameters():
            table.normal_(generator=generator)
        field.network.layers[-1].weight[0] *= 3  # type: ignore[index,union-attr]
        field.network.layers[-1].bias[0] += thickness  # type: ignore[index,union-attr]
    return field


def rays_of(n: int, seed: int = 1) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    to = torch.tensor(LOW) + torch.rand(n, 3, generator=generator) * (torch.tensor(HIGH) - torch.tensor(LOW))
    origins = torch.randn(n, 3, generator=generator) * 2 + torch.tensor([0.0, 0.0, 4.0])
    return origins, torch.nn.functional.normalize(to - origins, dim=-1)


def sights_of(field: RadianceField, n: int, *, step: float = 0.05, early_stop: float = 0.0, seed: int = 1) -> Sights:
    origins, directions = rays_of(n, seed)
    samples = march(origins, directions, OccupancyGrid(LOW, HIGH, 8), step=step)
    generator = torch.Generator().manual_seed(seed + 7)
    background = torch.rand(n, 3, generator=generator)
    photos = torch.randint(field.n_photos, (n,), generator=generator) if field.n_photos else None
    fourth = field.duration * torch.rand(n, generator=generator) if field.has_time else None
    code = field.code(directions, photos).detach()
    return Sights(samples, origins, directions, code, background, early_stop, fourth)


def renderer_of(field: RadianceField, n_beside: int = 0) -> RadianceRenderer:
    table, density, color = parts_of(field)
    moved = [Moved(*(torch.zeros_like(p) for _ in range(n_beside))) for p in (table, *density, *color)]
    shape = shape_of(field)
    assert not isinstance(shape, str)
    return RadianceRenderer(shape, table, density, color, moved=moved)


def exact(field: RadianceField, sights: Sights) -> tuple[list[Tensor], Tensor, Tensor, Tensor, list[int]]:
    """Parameters in float64, and colour, depth and opacity of each ray by the loops, differentiable in them.

    After the parameters stand what is behind the rays, and their codes.
    """
    table, density, color = parts_of(field)
    all_of_them = [p.detach().double().requires_grad_() for p in (table, *density, *color)]
    n = len(density) // 2
    table64, weights, biases = all_of_them[0], all_of_them[1 : 1 + n], all_of_them[1 + n : 1 + 2 * n]
    rest = all_of_them[1 + 2 * n :]
    networks = list(zip(weights, biases, strict=True)), list(zip(rest[:3], rest[3:], strict=True))
    low, high = torch.tensor(LOW).double(), torch.tensor(HIGH).double()
    encoding = field.encoding
    assert isinstance(encoding, Grid)

    behind, codes = (rows.double().requires_grad_() for rows in (sights.background, sights.code))
    fourth = None if sights.fourth is None else sights.fourth.double()

    def features(point: Tensor, ray: int) -> Tensor:
        if isinstance(field.space, Contraction):
            unit = torch.tensor(contract(point.tolist(), LOW, HIGH, field.space.norm), dtype=torch.float64)
        else:
            unit = ((point - low) / (high - low)).clamp(0, 1)
        if fourth is not None:
            unit = torch.cat([unit, fourth[ray : ray + 1]])
        return grid(unit[None].float(), table64, encoding.levels, "Linear")[0]

    samples, found = sights.samples, []
    offsets = samples.offsets.tolist()
    for ray, (first, last) in enumerate(itertools.pairwise(offsets)):
        found.append(
            render_ray(
                sights.origins[ray].double(), sights.directions[ray].double(),
                list(zip(samples.t0[first:last].tolist(), samples.t1[first:last].tolist(), strict=True)),
                functools.partial(features, ray=ray), *networks, codes[ray], behind[ray],
                activation=field.density_activation, side=field.longest_side / field.density_scale,
                early_stop=sights.early_stop,
            )
        )  # fmt: skip
    color64, depth, opacity = (torch.stack([one[i] for one in found]) for i in range(3))
    return [*all_of_them, behind, codes], color64, depth, opacity, [one[3] for one in found]


@pytest.mark.parametrize("activation", ["exponential", "softplus"])
@pytest.mark.parametrize(("early_stop", "more"), [(0.0, {}), (0.05, {}), (0.02, MOVING)])
def test_pictures_are_those_of_the_loops(activation: str, early_stop: float, more: dict[str, Any]) -> None:
    field = make(density_activation=activation, **more)
    sights = sights_of(field, 9, early_stop=early_stop)
    seen = renderer_of(field).render(sights)
    _, color, depth, opacity, counts = exact(field, sights)
    assert seen.n_evaluated == sum(counts)
    torch.testing.assert_close(seen.color.double(), color, rtol=0, atol=3e-5)
    torch.testing.assert_close(seen.depth.double(), depth, rtol=3e-5, atol=3e-5)
    torch.testing.assert_close(seen.opacity.double(), opacity, rtol=3e-5, atol=1e-6)


@pytest.mark.parametrize("activation", ["exponential", "softplus"])
@pytest.mark.parametrize("more", [{}, MOVING])
def test_gradients_are_those_of_the_loops(activation: str, more: dict[str, Any]) -> None:
    """A step moves every parameter along its gradient; those in what belongs to rays are handed back."""
    field = make(density_activation=activation, density_scale=1.5, **more)
    sights = sights_of(field, 11, early_stop=0.02)
    target = torch.rand(11, 3, generator=torch.Generator().manual_seed(3))
    parameters, color, *_ = exact(field, sights)
    loss = (color - target.double()).square().mean()
    *grads, of_background, of_code = torch.autograd.grad(loss, parameters)
    value = float(loss.detach())
    renderer = renderer_of(field)
    before = [p.clone() for p in renderer.parameters]
    n_learned = 1 + field.appearance
    grad_background, grad_code = torch.full((11, 3), math.nan), torch.full((11, n_learned), math.nan)
    result = renderer.train(
        sights, target, [SGD] * len(before), grad_background=grad_background, grad_code=grad_code
    )  # fmt: skip
    assert result.has_moved
    assert result.loss == pytest.approx(value, rel=1e-5)
    torch.testing.assert_close(grad_background.double(), of_background, rtol=1e-3, atol=1e-7)
    torch.testing.assert_close(grad_code.double(), of_code[:, -n_learned:], rtol=1e-3, atol=1e-7)
    for old, new, grad in zip(before, renderer.parameters, grads, strict=True):
        moved = (old - new).double() / RATE
        assert float((moved - grad).norm()) < 1e-4 * float(grad.norm())
        torch.testing.assert_close(moved, grad, rtol=1e-3, atol=1e-7)


@pytest.mark.parametrize("norm", NORMS)
def test_an_unbounded_scene_is_seen_and_learnt_as_by_the_loops(norm: Norm) -> None:
    """Samples from within the box to thirty times as far, which grow with the distance."""
    field = make(space=Contraction(norm=norm))
    origins, directions = rays_of(7)
    samples = march(origins, directions, OccupancyGrid(LOW, HIGH, 8, 6), step=0.05, cone_angle=0.05)
    code, background = field.dir_encoding(0.5 * directions + 0.5), torch.rand(7, 3)
    sights = Sights(samples, origins, directions, code, background, 0.02)
    (*parameters, _, _), color, depth, _, counts = exact(field, sights)
    assert float(samples.t1.max()) > 30
    renderer = renderer_of(field)
    seen = renderer.render(sights)
    assert seen.n_evaluated == sum(counts)
    torch.testing.assert_close(seen.color.double(), color, rtol=0, atol=3e-5)
    torch.testing.assert_close(seen.depth.double(), depth, rtol=3e-5, atol=3e-5)
    target = torch.rand(7, 3, generator=torch.Generator().manual_seed(3))
    grads = torch.autograd.grad((color - target.double()).square().mean(), parameters)
    before = [p.clone() for p in renderer.parameters]
    renderer.train(sights, target, [SGD] * len(before))
    for old, new, grad in zip(before, renderer.parameters, grads, strict=True):
        torch.testing.assert_close((old - new).double() / RATE, grad, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_places_far_away_are_those_of_the_plain_contraction(norm: Norm) -> None:
    """One sample a ray, so that a ray's colour is that of one place; up to where squares are infinite."""
    field = make(space=Contraction(norm=norm), thickness=20.0, encoding={"otype": "DenseGrid", "n_levels": 1,
                 "base_resolution": 5})  # fmt: skip
    n = 1009
    origins, directions = rays_of(n)
    t0 = 10 ** torch.linspace(-2, 25, n)
    samples = Samples(t0, 1.5 * t0, torch.arange(n), n_rays=n)
    code = field.dir_encoding(0.5 * directions + 0.5)
    seen = renderer_of(field).render(Sights(samples, origins, directions, code, torch.zeros(n, 3), 0.0))
    density, color = field.radiance(origins + 1.25 * t0[:, None] * directions, directions)
    alpha = -torch.expm1(-density * 0.5 * t0)
    torch.testing.assert_close(seen.color, (alpha[:, None] * color).detach(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("n", [1, 17, 1009])
@pytest.mark.parametrize("loss", ["L2", "Huber", "L1"])
def test_a_step_is_the_one_of_the_plain_renderer(n: int, loss: str) -> None:
    """Many rays a tile, rays without samples, early termination: the same picture, loss and moves."""
    field = make(2, thickness=3.0)
    origins, directions = rays_of(n)
    directions[1::5] = -directions[1::5]  # these miss
    cells = OccupancyGrid(LOW, HIGH, 16)
    cells.update(field.density, 0, generator=torch.Generator().manual_seed(0))
    background, target = torch.rand(2, n, 3, generator=torch.Generator().manual_seed(5)).unbind()
    seen = volume.render(
        origins, directions, field.radiance, cells, step=0.02, density=field.density, background=background,
        early_stop=1e-3,
    )  # fmt: skip
    error = seen.color - target
    each = {
        "L2": error.square(),
        "L1": error.abs(),
        "Huber": torch.where(error.abs() > 0.1, 0.1 * (2 * error.abs() - 0.1), error.square()),
    }[loss]
    each.mean().backward()
    samples = march(origins, directions, cells, step=0.02)
    code = field.dir_encoding(0.5 * directions + 0.5)
    table, density, color = parts_of(field)
    grads = [p.grad for p in (table, *density, *color)]
    renderer = renderer_of(field)
    before = [p.clone() for p in renderer.parameters]
    ray_loss = torch.empty(n)
    sights = Sights(samples, origins, directions, code, background, 1e-3)
    result = renderer.train(sights, target, [SGD] * len(before), loss=loss, huber_delta=0.1, ray_loss=ray_loss)
    assert abs(result.n_evaluated - seen.n_evaluated) <= 1 + seen.n_evaluated // 10_000
    torch.testing.assert_close(ray_loss, each.mean(-1).detach(), rtol=1e-4, atol=1e-5)
    for old, new, grad in zip(before, renderer.parameters, grads, strict=True):
        assert grad is not None
        assert float(((old - new) / RATE - grad).norm()) <= 2e-3 * float(grad.norm()) + 1e-9


def test_long_rays_fill_wide_tiles() -> None:
    """More samples on a ray than a tile usually has."""
    field = make(thickness=-3.0)
    sights = sights_of(field, 5, step=0.001)
    assert int(sights.samples.offsets.diff().max()) > 1024
    seen = renderer_of(field).render(sights)
    plain = volume.render(
        sights.origins, sights.directions, field.radiance, OccupancyGrid(LOW, HIGH, 8), step=0.001,
        background=sights.background, early_stop=0.0,
    )  # fmt: skip
    torch.testing.assert_close(seen.color, plain.color.detach(), rtol=0, atol=5e-5)


def steps(n_threads: int, monkeypatch: pytest.MonkeyPatch) -> tuple[list[Tensor], Seen]:
    monkeypatch.setenv("FIELDFORGE_NUM_THREADS", str(n_threads))
    field = make(4)
    renderer = renderer_of(field, 2)
    rule = Rule(Mover.ADAM, rate=1e-2, beta1=0.9, beta2=0.99, epsilon=1e-15)
    for k in range(3):
        sights = sights_of(field, 701, seed=k, early_stop=1e-3)
        renderer.train(sights, torch.rand(701, 3, generator=torch.Generator().manual_seed(k)), [rule] * 11)
    return renderer.parameters, renderer.render(sights_of(field, 701, early_stop=1e-4))


def test_any_number_of_threads_gives_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    parameters, seen = steps(1, monkeypatch)
    for n_threads in (2, 5):
        again, seen_again = steps(n_threads, monkeypatch)
        assert all(torch.equal(a, b) for a, b in zip(parameters, again, strict=True))
        assert torch.equal(seen.color, seen_again.color)
        assert torch.equal(seen.depth, seen_again.depth)


def test_rays_that_meet_nothing_show_the_background_and_teach_nothing() -> None:
    field = make()
    origins, directions = rays_of(40)
    none = Samples(torch.empty(0), torch.empty(0), torch.empty(0, dtype=torch.int64), n_rays=40)
    code, background = field.dir_encoding(0.5 * directions + 0.5), torch.rand(40, 3)
    renderer = renderer_of(field)
    seen = renderer.render(Sights(none, origins, directions, code, background))
    assert torch.equal(seen.color, background)
    assert not seen.opacity.any()
    assert seen.n_evaluated == 0
    before = [p.clone() for p in renderer.parameters]
    sights = Sights(none, origins, directions, code, background)
    grad_background, grad_code = torch.full((40, 3), math.nan), torch.full((40, 2), math.nan)
    result = renderer.train(
        sights, torch.zeros(40, 3), [SGD] * len(before), grad_background=grad_background, grad_code=grad_code
    )  # fmt: skip
    assert result.loss == pytest.approx(float(background.square().mean()), rel=1e-5)
    torch.testing.assert_close(grad_background, 2 * background / background.numel())
    assert not grad_code.any()
    assert all(torch.equal(a, b) for a, b in zip(before, renderer.parameters, strict=True))


def test_no_rays_are_a_picture_and_no_lesson() -> None:
    field = make()
    renderer, sights = renderer_of(field), sights_of(field, 0)
    assert renderer.render(sights).color.shape == (0, 3)
    with pytest.raises(ValueError, match="n_rays: expected an integer of at least 1"):
        renderer.train(sights, torch.zeros(0, 3), [SGD] * len(renderer.parameters))


def test_a_learnt_background_and_photos_have_the_gradients_of_autograd() -> None:
    """Many rays in a tile, some of which meet nothing."""
    n, field = 1009, make(**MOVING)
    sights = sights_of(field, n, early_stop=1e-3)
    directions = sights.directions.clone()
    photos = torch.randint(3, (n,), generator=torch.Generator().manual_seed(1))
    target = torch.rand(n, 3, generator=torch.Generator().manual_seed(2))
    behind = sights.background.clone().requires_grad_()
    radiance, density = asked_along(field, sights.fourth, photos)
    seen = volume.render(
        sights.origins, directions, radiance, OccupancyGrid(LOW, HIGH, 8), step=0.05, density=density,
        background=behind, early_stop=1e-3, tell_rays=True,
    )  # fmt: skip
    torch.nn.functional.mse_loss(seen.color, target).backward()
    code = field.code(directions, photos)
    grad_background, grad_code = torch.empty(n, 3), torch.empty(n, 5)
    renderer = renderer_of(field)
    renderer.train(
        sights._replace(code=code.detach()), target, [SGD] * len(renderer.parameters),
        grad_background=grad_background, grad_code=grad_code,
    )  # fmt: skip
    expected = field.photo_vectors.grad
    assert expected is not None
    found = torch.zeros(3, 5).index_add(0, photos, grad_code)
    assert float((found - expected).norm()) < 2e-3 * float(expected.norm())
    assert behind.grad is not None
    assert float((grad_background - behind.grad).norm()) < 1e-3 * float(behind.grad.norm())


@pytest.mark.parametrize("where", ["table", "target", "background"])
def test_a_loss_that_is_no_number_moves_nothing(where: str) -> None:
    field = make()
    sights, target = sights_of(field, 20), torch.zeros(20, 3)
    if where == "table":
        parts_of(field)[0].detach()[:] = math.nan
    else:
        {"target": target, "background": sights.background}[where][3, 1] = math.nan
    renderer = renderer_of(field)
    before = [p.clone() for p in renderer.parameters]
    result = renderer.train(sights, target, [SGD] * len(before))
    assert math.isnan(result.loss)
    assert not result.has_moved
    assert all(torch.equal(a, b) or where == "table" for a, b in zip(before, renderer.parameters, strict=True))


def test_a_veto_holds_the_update() -> None:
    field = make()
    renderer = renderer_of(field)
    before = [p.clone() for p in renderer.parameters]
    args = (sights_of(field, 20), torch.zeros(20, 3), [SGD] * len(before))
    assert not renderer.train(*args, may_move=lambda: False).has_moved
    assert all(torch.equal(a, b) for a, b in zip(before, renderer.parameters, strict=True))
    with pytest.raises(ZeroDivisionError):
        renderer.train(*args, may_move=lambda: 1 / 0 > 0)


def test_wrong_calls_are_refused_before_the_kernel() -> None:
    field = make()
    renderer, sights = renderer_of(field), sights_of(field, 4)
    rules = [SGD] * len(renderer.parameters)
    target = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"code: expected shape \(4, 9\)"):
        renderer.render(sights._replace(code=torch.zeros(4, 8)))
    with pytest.raises(TypeError, match="origins: expected float32"):
        renderer.render(sights._replace(origins=sights.origins.double()))
    with pytest.raises(ValueError, match=r"target: expected shape \(4, 3\)"):
        renderer.train(sights, torch.zeros(4, 4), rules)
    with pytest.raises(ValueError, match="rules: expected one for each"):
        renderer.train(sights, target, rules[1:])
    with pytest.raises(ValueError, match="Adam needs two moments"):
        renderer.train(sights, target, [Rule(Mover.ADAM, rate=1e-2)] * len(rules))
    with pytest.raises(ValueError, match="grad_code: expected an integer"):
        renderer.train(sights, target, rules, grad_code=torch.zeros(4, 10))
    with pytest.raises(ValueError, match=r"grad_background: expected shape \(4, 3\)"):
        renderer.train(sights, target, rules, grad_background=torch.zeros(4))
    moving = make(**MOVING)
    with pytest.raises(ValueError, match="fourth: the grid has four axes"):
        renderer_of(moving).render(sights_of(moving, 4)._replace(fourth=None))
    samples = sights.samples
    backward = Samples.trusted(samples.t0, samples.t1, samples.ray_index, samples.offsets.flip(0))  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="offsets: expected"):
        renderer.render(sights._replace(samples=backward))
    long = torch.tensor([0, 4097])
    many = Samples.trusted(torch.zeros(4097), torch.ones(4097), torch.zeros(4097, dtype=torch.int64), long)
    with pytest.raises(ValueError, match="at most 4096; take a larger step"):
        renderer.render(Sights(many, *(one[:1] for one in sights[1:5])))  # type: ignore[arg-type]
    table, density, color = parts_of(field)
    shape = shape_of(field)
    assert not isinstance(shape, str)
    with pytest.raises(ValueError, match="shares memory"):
        RadianceRenderer(shape, table, [*density[:2], density[2][:17], density[2][:7]], color)


def test_only_grids_and_plain_networks_are_native() -> None:
    assert not isinstance(native_renderer(make()), str)
    assert "needs a grid" in str(native_renderer(make(encoding="Identity")))
    assert "no second encoding" in str(native_renderer(make(rgb_encoding="Identity")))
    assert "does not shift" in str(native_renderer(make(density_shift=-1.0)))
