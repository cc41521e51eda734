"""Diffusion is the papers' formulas, on Gaussians its answer is known, and generators make what they were fitted to."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from reference import diffusion as loops

from fieldforge.apps.fit.optimizers.base import Parameters
from fieldforge.fields.weightspace.denoisers.base import drop_labels
from fieldforge.fields.weightspace.denoisers.token_transformer import TokenTransformer
from fieldforge.fields.weightspace.diffusion import Diffusion, guided
from fieldforge.fields.weightspace.generators.diffusion import WeightDiffusion
from fieldforge.fields.weightspace.generators.gaussian import Gaussian, PCAGaussian, optimal_shrinkage
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.noise import CosineNoise, LinearNoise
from fieldforge.registry import ConfigError, available, build

SMALL = Layout((("0.weight", (3, 2)), ("0.bias", (3,)), ("1.weight", (1, 3)), ("1.bias", (1,))))
TINY: dict[str, Any] = {"otype": "TokenTransformer", "width": 16, "n_layers": 1, "n_heads": 2}


def shape_layout(*widths: int) -> Layout:
    pairs = list(itertools.pairwise(widths))
    tensors: list[tuple[str, tuple[int, ...]]] = []
    for index, (n_in, n_out) in enumerate(pairs):
        tensors += [(f"{index}.weight", (n_out, n_in)), (f"{index}.bias", (n_out,))]
    return Layout(tuple(tensors))


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_the_linear_schedule_is_the_papers_loop() -> None:
    kept = LinearNoise(n_steps=37, first=2e-4, last=0.03).alpha_bar()
    torch.testing.assert_close(kept.tolist(), loops.linear_alpha_bar(37, 2e-4, 0.03), rtol=1e-12, atol=0)


def test_hyperdiffusions_schedule_leaves_some_signal() -> None:
    assert float(LinearNoise().alpha_bar()[-1]) == pytest.approx(6.4e-3, rel=0.01)
    assert float(LinearNoise(n_steps=1000).alpha_bar()[-1]) == pytest.approx(4.0e-5, rel=0.02)


def test_the_cosine_schedule_is_a_cosine() -> None:
    kept = CosineNoise(n_steps=100).alpha_bar()
    at_0 = math.cos(0.008 / 1.008 * math.pi / 2) ** 2
    assert float(kept[50]) == pytest.approx(math.cos(0.508 / 1.008 * math.pi / 2) ** 2 / at_0, rel=1e-12)
    assert float(kept[-1]) < 1e-5


@pytest.mark.parametrize("noise", ["LinearNoise", "CosineNoise"])
@pytest.mark.parametrize("is_zero", [False, True])
def test_signal_falls_from_one_to_its_end(noise: str, is_zero: bool) -> None:
    made = build("noise", {"otype": noise, "n_steps": 50, "has_zero_terminal": is_zero})
    kept = made.alpha_bar()
    assert build("noise", made.config()).config() == made.config()
    assert (float(kept[0]), len(kept)) == (1.0, 51)
    assert bool((kept.diff() < 0).all())
    assert (float(kept[-1]) == 0) == is_zero
    plain = build("noise", {"otype": noise, "n_steps": 50}).alpha_bar()
    assert float(kept[1]) == pytest.approx(float(plain[1]))


def test_every_noise_is_here() -> None:
    assert available("noise") == ["CosineNoise", "LinearNoise"]


@pytest.mark.parametrize("prediction", ["x0", "v", "noise"])
def test_predictions_are_one_thing(prediction: Any) -> None:
    """Whatever the network is asked for, the clean vector and the noise come back."""
    process = Diffusion(LinearNoise(n_steps=20), prediction)
    x, noise = torch.randn(2, 20, 3, generator=seeded(), dtype=torch.float64)
    t = torch.arange(1, 21)
    x_t = process.add_noise(x, t, noise)
    clean, found = process.clean_and_noise(process.target(x, t, noise), x_t, t)
    torch.testing.assert_close(clean, x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found, noise, rtol=1e-9, atol=1e-9)


def test_steps_are_the_papers_loops() -> None:
    process = Diffusion(LinearNoise(n_steps=9, first=1e-3, last=0.2), "x0")
    kept = process.alpha_bar.tolist()
    x_t, x_0, noise = torch.randn(3, 4, 1, generator=seeded(), dtype=torch.float64)
    for t in range(2, 10):
        ours = process.step(x_t, x_0, t, t - 1, eta=1.0, noise=noise)[:, 0].tolist()
        papers = [loops.ddpm_step(*numbers, t, kept, e) for (*numbers, e) in torch.cat([x_t, x_0, noise], 1).tolist()]
        torch.testing.assert_close(ours, papers, rtol=1e-10, atol=1e-12)
    process = Diffusion(LinearNoise(n_steps=9, first=1e-3, last=0.2), "noise")
    for t, to in ((9, 7), (7, 1), (1, 0)):
        ours = process.step(x_t, noise, t, to)[:, 0].tolist()
        papers = [loops.ddim_step(x, e, t, to, kept) for x, e in torch.cat([x_t, noise], 1).tolist()]
        torch.testing.assert_close(ours, papers, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("is_zero", [False, True])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_gaussian_comes_out_as_it_went_in(eta: float, is_zero: bool) -> None:
    """With the best denoiser of N(3, 0.5²): mean and variance of DDPM are the loop's, those of DDIM the flow's."""
    mean, deviation = 3.0, 0.5
    process = Diffusion(LinearNoise(n_steps=250, last=0.03, has_zero_terminal=is_zero), "x0")

    def best(x_t: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        signal, spread = process.factors(t, x_t)
        gain = deviation**2 * signal / (deviation**2 * signal**2 + spread**2)
        return mean + gain * (x_t - signal * mean)

    like = torch.zeros(0, dtype=torch.float64)
    x = process.sample(best, (20_000, 1), eta=eta, generator=seeded(), like=like)
    kept = process.alpha_bar.tolist()
    if eta:
        wanted_mean, variance = loops.ddpm_of_gaussian(kept, mean, deviation)
    else:
        scale = deviation / math.sqrt(deviation**2 * kept[-1] + 1 - kept[-1])
        wanted_mean, variance = mean - scale * math.sqrt(kept[-1]) * mean, scale**2
    assert float(x.mean()) == pytest.approx(wanted_mean, abs=0.02)
    assert float(x.var()) == pytest.approx(variance, rel=0.06)
    assert (abs(wanted_mean - mean) < 0.05) == (is_zero or eta == 1.0)  # the signal left at the end is missed by DDIM


def test_the_end_of_zero_signal_wants_another_prediction() -> None:
    with pytest.raises(ValueError, match=r"^prediction: 'noise' says nothing"):
        Diffusion(LinearNoise(has_zero_terminal=True), "noise")


def test_some_of_the_steps_are_spread_over_all() -> None:
    process = Diffusion(LinearNoise(n_steps=500))
    assert process.steps(5) == [500, 400, 300, 200, 100, 0]
    assert len(set(process.steps(100))) == 101
    with pytest.raises(ValueError, match=r"^n_steps: expected an integer from 1 to 500"):
        process.steps(501)


def test_guidance_goes_beyond_the_label() -> None:
    def network(x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        return torch.full_like(x, 1.0) if labels is None else labels[:, None].to(x)

    x, labels = torch.zeros(2, 1), torch.tensor([3, 5])
    answers = [guided(network, labels, scale)(x, labels)[:, 0].tolist() for scale in (0.0, 1.0, 2.0)]
    assert answers == [[1, 1], [3, 5], [5, 9]]


def test_hidden_labels_are_as_many_as_asked() -> None:
    labels = drop_labels(torch.full((10_000,), 4), 0.1, seeded())
    assert set(labels.tolist()) == {-1, 4}
    assert float((labels < 0).double().mean()) == pytest.approx(0.1, abs=0.01)


def test_hyperdiffusions_denoiser_has_its_size() -> None:
    """Shapes: 1.2e9 numbers in the blocks and 2 x 36,737 x 2880 in the layers to and from tokens; eight tensors."""
    with torch.device("meta"):
        model = TokenTransformer(shape_layout(27, 128, 128, 128, 1))
    blocks = sum(parameter.numel() for parameter in model.blocks.parameters())
    ends = [*model.encoders.parameters(), *model.decoders.parameters()]
    assert blocks == pytest.approx(1.2e9, rel=0.01)
    assert sum(parameter.numel() for parameter in ends) == 2 * 36_737 * 2880
    assert model.positions.shape == (9, 2880)
    assert model.of_step.in_features == 257


def test_a_denoiser_tells_steps_and_labels_apart() -> None:
    model = build("denoiser", TINY | {"n_classes": 3}, layout=SMALL, generator=seeded()).double()
    x, t = torch.randn(2, SMALL.n_parameters, generator=seeded(1), dtype=torch.float64), torch.tensor([1, 7])
    none = model(x, t)
    assert none.shape == x.shape
    assert torch.equal(none, model(x, t, torch.tensor([-1, -1])))
    assert not torch.allclose(none, model(x, t.flip(0)))
    assert not torch.allclose(none, model(x, t, torch.tensor([0, 2])))
    torch.testing.assert_close(model(x[:1], t[:1]), none[:1])
    for labels, message in ((torch.tensor([0, 3]), r"expected -1 to 2"), (torch.tensor([0]), r"expected \(2,\) int64")):
        with pytest.raises(ValueError, match=r"^labels: " + message):
            model(x, t, labels)
    with pytest.raises(ValueError, match=r"^labels: this denoiser was built without classes"):
        build("denoiser", TINY, layout=SMALL)(x.float(), t, torch.tensor([0, 0]))


def correlated(n: int, d: int) -> torch.Tensor:
    mix = torch.randn(d, d, generator=seeded(2))
    return 5 + torch.randn(n, d, generator=seeded(3)) @ mix


@pytest.mark.parametrize("config", [{"otype": "Gaussian"}, {"otype": "Gaussian", "shrinkage": 0.0},
                                    {"otype": "PCAGaussian"}], ids=str)  # fmt: skip
def test_gaussians_have_the_training_sets_moments(config: dict[str, Any]) -> None:
    vectors = correlated(3000, SMALL.n_parameters)
    model = build("generator", config, layout=SMALL)
    model.fit(vectors)
    samples = model.sample(30_000, generator=seeded())
    size = float(vectors.T.cov().abs().max())
    torch.testing.assert_close(samples.mean(0), vectors.mean(0), rtol=0, atol=0.05 * size**0.5)
    torch.testing.assert_close(samples.T.cov(), vectors.T.cov(), rtol=0, atol=0.05 * size)


def test_shrinkage_is_what_the_data_asks_for() -> None:
    """None needed for many correlated fields, nearly all for numbers that have nothing to do with each other."""
    model = Gaussian(SMALL)
    model.fit(correlated(3000, SMALL.n_parameters))
    assert float(model.used_shrinkage) < 0.02
    model.fit(torch.randn(20, SMALL.n_parameters, generator=seeded()))
    assert float(model.used_shrinkage) > 0.5
    assert bool(torch.isfinite(model.sample(5)).all())
    diagonal = Gaussian(SMALL, shrinkage=1.0)
    diagonal.fit(correlated(500, SMALL.n_parameters))
    covariance = diagonal.factor @ diagonal.factor.T
    torch.testing.assert_close(covariance, covariance.diagonal().diag(), rtol=0, atol=1e-4)


@pytest.mark.parametrize("n", [5, 40])
def test_shrinkage_is_the_papers_loop(n: int) -> None:
    x = correlated(n, 4).double()
    x = (x - x.mean(0)) / x.std(0)
    assert optimal_shrinkage(x) == pytest.approx(loops.shrinkage(x.tolist()), rel=1e-10)


def test_principal_directions_hold_most_and_leave_the_rest() -> None:
    vectors = correlated(500, SMALL.n_parameters)
    model = PCAGaussian(SMALL, n_components=2)
    model.fit(vectors)
    samples = model.sample(200, generator=seeded()) - model.mean
    assert int(torch.linalg.matrix_rank(samples, rtol=1e-4)) == 2
    leading = torch.linalg.eigvalsh(vectors.T.cov())[-2:].sum()
    torch.testing.assert_close(model.directions.square().sum(), leading, rtol=1e-3, atol=0)


def test_a_subset_is_the_training_set_and_jitter_is_near_it() -> None:
    vectors = correlated(50, SMALL.n_parameters)
    subset = build("generator", "Subset", layout=SMALL)
    subset.fit(vectors)
    samples = subset.sample(50, generator=seeded())
    assert torch.equal(samples.sort(0).values, vectors.sort(0).values)
    assert not torch.equal(samples, vectors)
    jitter = build("generator", {"otype": "Jitter", "deviation": 0.1}, layout=SMALL)
    jitter.fit(vectors)
    nearest, _ = torch.cdist(jitter.sample(2000, generator=seeded()), vectors).min(1)
    expected = 0.1 * float(vectors.std(0).square().sum().sqrt())
    assert float(nearest.mean()) == pytest.approx(expected, rel=0.1)


GENERATORS: list[dict[str, Any]] = [
    {"otype": "Gaussian"},
    {"otype": "PCAGaussian", "n_components": 4},
    {"otype": "Jitter"},
    {"otype": "Subset"},
    {"otype": "WeightDiffusion", "denoiser": TINY | {"n_classes": 2}, "n_sampling_steps": 5, "eta": 0.5},
]


@pytest.mark.parametrize("config", GENERATORS, ids=lambda config: config["otype"])
def test_generators_save_load_and_repeat(config: dict[str, Any]) -> None:
    """Configuration and state are the whole of a generator; one seed gives one set of samples."""
    vectors = correlated(40, SMALL.n_parameters)
    model = build("generator", config, layout=SMALL, generator=seeded())
    model.fit(vectors)
    again = build("generator", model.config(), layout=SMALL)
    assert again.config() == model.config()
    again.load_state_dict(model.state_dict())
    state = torch.get_rng_state()
    samples = model.sample(7, generator=seeded(5))
    assert torch.equal(samples, again.sample(7, generator=seeded(5)))
    assert torch.equal(torch.get_rng_state(), state)
    assert (samples.shape, samples.dtype) == ((7, SMALL.n_parameters), torch.float32)
    assert not torch.equal(samples, model.sample(7, generator=seeded(6)))
    assert model.sample(0, generator=seeded()).shape == (0, SMALL.n_parameters)
    with torch.device("meta"):
        sketch = build("generator", model.config(), layout=SMALL)
    assert all(tensor.is_meta for tensor in sketch.state_dict().values())
    broken = vectors.clone()
    broken[3, 0] = torch.nan
    for wrong, message in ((vectors[:0], r"needs at least \d fields, got 0"), (broken, r"field 3 has others")):
        with pytest.raises(ValueError, match=r"^vectors: .*" + message):
            model.fit(wrong)


def test_every_generator_is_checked() -> None:
    assert set(available("generator")) == {config["otype"] for config in GENERATORS}
    assert available("denoiser") == ["ResidualMLP", "TokenTransformer"]


def test_a_diffusion_of_two_points_learns_them() -> None:
    """Two fields, two labels, some seconds of training with averaged parameters: samples are the label's field."""
    fields = torch.randn(2, SMALL.n_parameters, generator=seeded(4))
    vectors, labels = fields.repeat(16, 1), torch.tensor([0, 1]).repeat(16)
    model = WeightDiffusion(SMALL, denoiser=TINY | {"n_classes": 2, "width": 32},
                            noise={"otype": "CosineNoise", "n_steps": 50, "has_zero_terminal": True}, prediction="v",
                            n_sampling_steps=20, generator=seeded())  # fmt: skip
    model.fit(vectors)
    parameters = list(model.denoiser.parameters())
    optimizer = build("optimizer", {"otype": "EMA", "decay": 0.95, "nested": {"otype": "Adam", "learning_rate": 3e-3}},
                      parameters=Parameters(matrix=parameters, other=[]))  # fmt: skip
    draws = seeded(1)
    for _ in range(150):
        for parameter in parameters:
            parameter.grad = None
        model.loss(vectors, labels, generator=draws).backward()
        optimizer.step()
    with torch.no_grad():
        for parameter, average in zip(parameters, optimizer.averaged(), strict=True):
            parameter.copy_(average)
    wanted = torch.tensor([0, 1, 1, 0])
    samples = model.sample(4, generator=seeded(2), labels=wanted, guidance=1.5)
    assert torch.equal(torch.cdist(samples, fields).argmin(1), wanted)
    apart = float((fields[0] - fields[1]).norm())
    assert float((samples - fields[wanted]).norm(dim=1).max()) < 0.3 * apart
    assert len(list(model.sampling(2, generator=seeded()))) == 20


@pytest.mark.parametrize(("config", "message"), [
    ({"denoiser": TINY, "codec": "Tokens"}, r"codec: WeightDiffusion reads codes of FlatVector, got Tokens"),
    ({"denoiser": TINY, "n_sampling_steps": 501}, r"n_sampling_steps: expected an integer from 1 to 500"),
    ({"denoiser": TINY | {"n_heads": 3}}, r"denoiser\.n_heads: expected a divisor of the width 16, got 3"),
    ({"denoiser": TINY, "noise": "Linear"}, r"noise\.otype: no noise is called 'Linear'"),
    ({"denoiser": TINY, "prediction": "x"}, r"prediction: expected one of x0, v, noise"),
])  # fmt: skip
def test_bad_configurations_are_named(config: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build("generator", {"otype": "WeightDiffusion", **config}, layout=SMALL)
