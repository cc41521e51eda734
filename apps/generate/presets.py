"""Named starting points for `generate train`, each a complete run configuration.

HyperDiffusion's own (Erkoç et al., ICCV 2023) has 1.2 billion parameters and days on a GPU; these are small on purpose:
minutes on one core, for fields of some hundred to some thousand numbers that began at the same place. What deviates
from the paper: the schedule is a cosine that ends in noise alone, v is predicted, weights are averaged (EMA), the rate
is annealed to nothing, and sampling takes 250 steps with new noise in each (eta 1), which covers more than DDIM does.
`diffusion` diffuses principal components, and has a residual MLP where the paper has a transformer over layers;
`transformer` has that one, small, and standardises every number.
"""

from __future__ import annotations

from fieldforge.apps.fit.recipe import Config
from fieldforge.checks import expect_choice
from fieldforge.fields.weightspace.layout import Layout

BASELINES = {"gaussian": "Gaussian", "pca": "PCAGaussian", "jitter": "Jitter", "subset": "Subset"}
"""Model -> the generator that is fitted in closed form."""

MODELS = ("diffusion", "transformer", *BASELINES)

LARGE = 2000
"""Numbers of a field from which on it is taken for a shape: of few items, so fewer components and steps do."""


def preset(model: str, layout: Layout) -> Config:
    """The run configuration of a model: generator, and of those that are trained denoiser, noise, optimizer, ...

    Raises:
        ValueError: there is no such model.
    """
    model = expect_choice("model", model, MODELS)
    if model in BASELINES:
        return {"generator": {"otype": BASELINES[model]}}
    is_large = layout.n_parameters > LARGE
    generator: Config = {
        "otype": "WeightDiffusion", "prediction": "v", "n_sampling_steps": 250, "eta": 1.0, "label_dropout": 0.1
    }  # fmt: skip
    denoiser: Config = {"otype": "ResidualMLP", "width": 256, "n_layers": 3}
    statistics = "none"
    if model == "transformer":
        denoiser, statistics = {"otype": "TokenTransformer", "width": 128, "n_layers": 4, "n_heads": 4}, "entry"
    else:
        generator["n_components"] = min(64 if is_large else 160, layout.n_parameters)
    adam = {"otype": "Adam", "learning_rate": 1.5e-3 if model == "diffusion" else 1e-3, "beta2": 0.99, "epsilon": 1e-8}
    return {
        "generator": generator,
        "codec": {"otype": "FlatVector", "statistics": statistics},
        "denoiser": denoiser,
        "noise": {"otype": "CosineNoise", "n_steps": 1000, "has_zero_terminal": True},
        "optimizer": {"otype": "EMA", "decay": 0.999, "nested": adam},
        "schedule": {"otype": "WarmupCosine", "n_warmup_steps": 200},
        "fit": {"n_steps": 2500 if is_large else 6000, "batch_size": 64 if is_large else 128},
    }
