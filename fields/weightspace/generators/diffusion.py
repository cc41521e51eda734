"""WeightDiffusion: diffusion of weight vectors (HyperDiffusion; Erkoç et al., ICCV 2023).

    {"otype": "WeightDiffusion", "prediction": "x0", "n_sampling_steps": 100, "eta": 0.0,
     "noise": {"otype": "CosineNoise"}, "codec": {"otype": "FlatVector", "statistics": "entry"},
     "denoiser": {"otype": "TokenTransformer", "width": 128, "n_layers": 4, "n_heads": 4}}

HyperDiffusion predicts x_0 over 500 steps of linear noise, takes all of them back without new noise (DDIM, eta 0), and
leaves the weights as they are. Here each number's mean and deviation are taken out first ("entry"; "none" is the
paper): its weights have about the deviation 1 that diffusion wants, those of small fields do not. Training is whoever's
loop calls `loss`; an average of the parameters over training (optimizer EMA) gives better samples, the paper has none.

With `n_components` the principal components of the weights are diffused instead, each with its own size: directions in
which fields differ much come first out of the noise, as coarse structure does in pictures, and those in which they
hardly differ do not take part. Dividing every number by its deviation makes all directions equally important.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from fieldforge.checks import expect_float, expect_generator, expect_int
from fieldforge.fields.weightspace.codecs.base import WeightCodec
from fieldforge.fields.weightspace.denoisers.base import Denoiser, drop_labels
from fieldforge.fields.weightspace.diffusion import Diffusion, Prediction, guided
from fieldforge.fields.weightspace.generators.base import Generator, draw_like
from fieldforge.fields.weightspace.generators.gaussian import principal
from fieldforge.fields.weightspace.layout import Layout
from fieldforge.fields.weightspace.networks.base import expect_codec
from fieldforge.fields.weightspace.noise import Noise
from fieldforge.registry import build, register

FLAT: Mapping[str, Any] = {"otype": "FlatVector", "statistics": "entry"}


@register("generator", "WeightDiffusion")
class WeightDiffusion(Generator):
    """A denoiser, a noise schedule and what to do with them.

    Args:
        layout: of the vectors.
        denoiser: configuration of a denoiser, or one made for the layout.
        noise: configuration of the schedule.
        prediction: "x0", "v" or "noise".
        n_sampling_steps: how many steps of the schedule sampling takes; None: all.
        eta: 0: nothing is drawn on the way (DDIM); 1: DDPM.
        label_dropout: how often training hides the label, for guidance.
        codec: configuration of a `FlatVector` codec, for its statistics.
        n_components: diffuse not the numbers themselves but their first principal components, all in one scale; what
            lies across them is left out of samples. None: the numbers (the paper).
        generator: source of the initial parameters.

    Attributes:
        process: the `Diffusion`.
        n_numbers: of what is diffused.
    """

    otype = "WeightDiffusion"

    centre: Tensor
    directions: Tensor
    spread: Tensor

    def __init__(
        self,
        layout: Layout,
        *,
        denoiser: str | Mapping[str, Any] | Denoiser = "TokenTransformer",
        noise: str | Mapping[str, Any] | Noise = "LinearNoise",
        prediction: Prediction = "x0",
        n_sampling_steps: int | None = None,
        eta: float = 0.0,
        label_dropout: float = 0.1,
        codec: str | Mapping[str, Any] | WeightCodec[Tensor] = FLAT,
        n_components: int | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(layout)
        expect_generator(generator)
        self.process = Diffusion(noise, prediction)
        self.noise, self.prediction = self.process.noise, self.process.prediction
        steps = (
            None
            if n_sampling_steps is None
            else expect_int("n_sampling_steps", n_sampling_steps, 1, self.noise.n_steps)
        )
        self.n_sampling_steps = steps
        self.eta = expect_float("eta", eta, 0.0)
        self.label_dropout = expect_float("label_dropout", label_dropout, 0.0, 1.0)
        self.codec: WeightCodec[Tensor] = expect_codec(codec, self.layout, "FlatVector", self.otype)
        diffused, self.n_components = self.layout, n_components
        if n_components is not None:
            expect_int("n_components", n_components, 1, self.layout.n_parameters)
            diffused = Layout((("components", (n_components,)),))
            self.register_buffer("centre", torch.zeros(self.layout.n_parameters))
            self.register_buffer("directions", torch.zeros(n_components, self.layout.n_parameters))
            self.register_buffer("spread", torch.ones(()))
        self.n_numbers = diffused.n_parameters
        if isinstance(denoiser, Denoiser):
            self.denoiser = denoiser
        else:
            self.denoiser = build("denoiser", denoiser, path="denoiser", layout=diffused, generator=generator)

    @torch.no_grad()
    def fit(self, vectors: Tensor) -> None:
        """Take the codec's statistics and the principal directions; the denoiser is trained by minimising `loss`."""
        n = self.n_components or 0
        x = self.expect_training_set(vectors, max(2, n + 1))
        self.codec.fit(x.to(vectors.dtype))
        if n:
            centre, directions, deviations = principal(self.codec.encode(vectors).double(), n)
            self.centre.copy_(centre)
            self.directions.copy_(directions)
            spread = deviations.square().mean().sqrt()
            self.spread.copy_(torch.where(spread > 1e-12, spread, torch.ones_like(spread)))

    def encode(self, vectors: Tensor) -> Tensor:
        """(n, n_parameters) to what is diffused, (n, n_numbers)."""
        x = self.codec.encode(vectors)
        return x if self.n_components is None else (x - self.centre) @ self.directions.T / self.spread

    def decode(self, x: Tensor) -> Tensor:
        """The inverse of `encode`, but for what lies across the components."""
        if self.n_components is not None:
            x = x * self.spread @ self.directions + self.centre
        return self.codec.decode(x)

    def loss(
        self, vectors: Tensor, labels: Tensor | None = None, *, generator: torch.Generator | None = None
    ) -> Tensor:
        """Mean square of prediction less target at random steps, for a batch (n, n_parameters) of the training set."""
        x = self.encode(vectors)
        device = x.device if generator is None else generator.device
        t = torch.randint(1, self.process.n_steps + 1, (len(x),), generator=generator, device=device).to(x.device)
        noise = draw_like(len(x), x, generator, x.shape[1])
        if labels is not None:
            labels = drop_labels(labels, self.label_dropout, generator)
        predicted = self.denoiser(self.process.add_noise(x, t, noise), t, labels)
        return (predicted - self.process.target(x, t, noise)).square().mean()

    def sample(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
        guidance: float = 1.0,
    ) -> Tensor:
        """(n, n_parameters) new vectors.

        Args:
            n: how many.
            generator: source of the noise.
            labels: (n,) int64 of what is wanted; None: anything.
            guidance: how much more than a label's own prediction; 1: no more.
        """
        *_, x = self.sampling(n, generator=generator, labels=labels, guidance=guidance)
        return x

    def sampling(
        self,
        n: int,
        *,
        generator: torch.Generator | None = None,
        labels: Tensor | None = None,
        guidance: float = 1.0,
        start: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """What `sample` would give if it stopped after each step, for whoever shows progress.

        Args:
            n, generator, labels, guidance: as of `sample`.
            start: (n, n_numbers) the noise to begin with; None: drawn.
        """
        like = next(self.denoiser.parameters())
        ask = self.denoiser if labels is None else guided(self.denoiser, labels, guidance)
        steps = self.process.sampling(
            ask,
            (n, self.n_numbers),
            n_steps=self.n_sampling_steps,
            eta=self.eta,
            generator=generator,
            like=like,
            start=start,
        )
        while True:
            with torch.no_grad():
                x = next(steps, None)
            if x is None:
                return
            yield self.decode(x)

    def inverting(self, vectors: Tensor) -> Iterator[Tensor]:
        """The noise (n, n_numbers) that vectors (n, n_parameters) come from, after each step; `sampling` with eta = 0
        from it gives them again."""
        x = self.encode(vectors)
        steps = self.process.inverting(self.denoiser, x, n_steps=self.n_sampling_steps)
        while True:
            with torch.no_grad():
                found = next(steps, None)
            if found is None:
                return
            yield found
