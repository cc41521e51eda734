"""Diffusion's formulas, without a network: noise in, what to predict, a step back (DDPM, DDIM).

    process = Diffusion(LinearNoise(n_steps=500), prediction="x0")
    x_t = process.add_noise(x_0, t, noise)
    loss = (network(x_t, t) - process.target(x_0, t, noise)).square().mean()
    x = process.sample(network, (n, d), n_steps=100, generator=generator)           # DDIM
    x = process.sample(network, (n, d), n_steps=500, eta=1.0, generator=generator)  # DDPM where every step is taken

Formulas are those of Ho et al. 2020 (DDPM), Song et al. 2021 (DDIM, eq. 12) and Salimans and Ho 2022 (v = √ᾱ e -
√(1-ᾱ) x_0). A step uses x_0 and e that belong together, both from the network's answer; with eta = 1 and neighbouring
steps it is DDPM's posterior.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from fieldforge.checks import expect_choice, expect_float, expect_int
from fieldforge.fields.weightspace.noise import Noise
from fieldforge.registry import build

Prediction = Literal["x0", "v", "noise"]
Denoise = Callable[[Tensor, Tensor], Tensor]
"""(x_t (batch, d), t (batch,) int64 from 1 to T) to the prediction (batch, d)."""


class Diffusion:
    """A noise schedule and what a network is asked for.

    Args:
        noise: a schedule, or its configuration.
        prediction: "x0", the clean vector; "v"; or "noise".

    Attributes:
        alpha_bar: (T + 1,) float64.

    Raises:
        ValueError: noise is to be predicted where no signal is left at the last step.
    """

    def __init__(self, noise: Noise | str | Mapping[str, Any] = "LinearNoise", prediction: Prediction = "x0") -> None:
        self.noise: Noise = noise if isinstance(noise, Noise) else build("noise", noise, path="noise")
        self.prediction: Prediction = expect_choice("prediction", prediction, ("x0", "v", "noise"))
        self.alpha_bar = self.noise.alpha_bar()
        self._alpha_bar_on = {self.alpha_bar.device: self.alpha_bar}
        self.n_steps = self.noise.n_steps
        if self.prediction == "noise" and float(self.alpha_bar[-1]) < 1e-12:
            raise ValueError(
                "prediction: 'noise' says nothing where no signal is left (has_zero_terminal); use x0 or v"
            )

    def add_noise(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """√ᾱ_t x + √(1 - ᾱ_t) noise, with t (batch,) from 0 (none) to T."""
        signal, spread = self.factors(t, x)
        return signal * x + spread * noise

    def target(self, x: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """What the network should say about x_t."""
        if self.prediction == "x0":
            return x
        signal, spread = self.factors(t, x)
        return noise if self.prediction == "noise" else signal * noise - spread * x

    def clean_and_noise(self, predicted: Tensor, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """(x_0, e) that belong to x_t and to what the network said."""
        signal, spread = self.factors(t, x_t)
        if self.prediction == "v":
            return signal * x_t - spread * predicted, spread * x_t + signal * predicted
        if self.prediction == "x0":
            return predicted, (x_t - signal * predicted) / spread
        return (x_t - spread * predicted) / signal, predicted

    def step(
        self, x_t: Tensor, predicted: Tensor, t: int, to: int, *, eta: float = 0.0, noise: Tensor | None = None
    ) -> Tensor:
        """From t to an earlier step (DDIM, eq. 12).

        Args:
            x_t: (batch, d).
            predicted: what the network said about it.
            t, to: from T down to 0.
            eta: 0: nothing is drawn (DDIM); 1: the variance of DDPM's posterior.
            noise: (batch, d) standard normal; needed where eta is not 0 and `to` is not 0.
        """
        batch = x_t.new_full((len(x_t),), t, dtype=torch.int64)
        x_0, e = self.clean_and_noise(predicted, x_t, batch)
        now, then = float(self.alpha_bar[t]), float(self.alpha_bar[to])
        deviation = eta * math.sqrt((1 - then) / (1 - now) * (1 - now / then)) if to else 0.0
        back = math.sqrt(then) * x_0 + math.sqrt(max(0.0, 1 - then - deviation**2)) * e
        if deviation == 0.0:
            return back
        if noise is None:
            raise ValueError(f"noise: expected normal numbers of shape {list(x_t.shape)} for eta={eta}, got None")
        return back + deviation * noise

    def steps(self, n_steps: int) -> list[int]:
        """`n_steps` of the steps, from T down, and 0: evenly spaced, T among them."""
        expect_int("n_steps", n_steps, 1, self.n_steps)
        return [round(self.n_steps * k / n_steps) for k in range(n_steps, -1, -1)]

    def sampling(
        self,
        network: Denoise,
        shape: Sequence[int],
        *,
        n_steps: int | None = None,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        like: Tensor | None = None,
        start: Tensor | None = None,
    ) -> Iterator[Tensor]:
        """x after each step, from noise to the sample, for whoever shows progress.

        Args:
            network: (x_t, t) to its prediction.
            shape: (batch, d).
            n_steps: how many steps of T are taken; None: all.
            eta: 0 for DDIM, 1 for DDPM.
            generator: source of the numbers; None is torch's global one.
            like: a tensor whose device and dtype the sample has; None: float32 on the CPU.
            start: (batch, d) the noise to begin with; None: drawn.
        """
        expect_float("eta", eta, 0.0)
        like = torch.zeros(0) if like is None else like

        def draw() -> Tensor:
            device = like.device if generator is None else generator.device
            return torch.randn(*shape, dtype=like.dtype, device=device, generator=generator).to(like.device)

        x = draw() if start is None else start
        steps = self.steps(self.n_steps if n_steps is None else n_steps)
        for t, to in itertools.pairwise(steps):
            predicted = network(x, torch.full((len(x),), t, dtype=torch.int64, device=x.device))
            x = self.step(x, predicted, t, to, eta=eta, noise=draw() if eta and to else None)
            yield x

    def sample(self, network: Denoise, shape: Sequence[int], **options: Any) -> Tensor:
        """The last of `sampling`, with its keywords; without gradients."""
        with torch.no_grad():
            *_, x = self.sampling(network, shape, **options)
        return x

    def inverting(
        self, network: Denoise, x: Tensor, *, n_steps: int | None = None, n_repeats: int = 4
    ) -> Iterator[Tensor]:
        """The way back of `sampling` with eta = 0: x after each step, from the clean vector to the noise it comes from.

        Song et al. 2021 ask the network once, about the x that a step begins with, and so come back to about x. Here
        the answer is improved until the step back from it leads to x: by repetition, in whichever of x_0 and e the
        equation divides by the larger factor.

        Args:
            network: (x_t, t) to its prediction.
            x: (batch, d) clean vectors.
            n_steps: as in sampling.
            n_repeats: how often each step asks; 1 is DDIM's own.
        """
        expect_int("n_repeats", n_repeats, 1)
        steps = self.steps(self.n_steps if n_steps is None else n_steps)[::-1]
        for t, to in itertools.pairwise(steps):
            batch = x.new_full((len(x),), to, dtype=torch.int64)
            now, then = float(self.alpha_bar[t]), float(self.alpha_bar[to])
            further = x
            for _ in range(n_repeats):
                x_0, e = self.clean_and_noise(network(further, batch), further, batch)
                if now > 0.5:
                    x_0 = (x - math.sqrt(1 - now) * e) / math.sqrt(now)
                else:
                    e = (x - math.sqrt(now) * x_0) / math.sqrt(1 - now)
                further = math.sqrt(then) * x_0 + math.sqrt(1 - then) * e
            x = further
            yield x

    def factors(self, t: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """√ᾱ_t and √(1 - ᾱ_t), (batch, 1), of the dtype of `like`."""
        if t.device not in self._alpha_bar_on:  # sent once
            self._alpha_bar_on[t.device] = self.alpha_bar.to(t.device)
        kept = self._alpha_bar_on[t.device][t][:, None]
        return kept.sqrt().to(like.dtype), (1 - kept).sqrt().to(like.dtype)


def guided(network: Callable[[Tensor, Tensor, Tensor | None], Tensor], labels: Tensor, scale: float) -> Denoise:
    """Classifier-free guidance: f(nothing) + scale (f(label) - f(nothing)) (Ho and Salimans 2022; w is scale - 1).

    Args:
        network: (x_t, t, labels or None) to its prediction.
        labels: (batch,) int64.
        scale: 1: no guidance, one call a step; 0: labels are not looked at.
    """
    expect_float("scale", scale)

    def ask(x_t: Tensor, t: Tensor) -> Tensor:
        if scale == 1:
            return network(x_t, t, labels)
        without = network(x_t, t, None)
        return without + scale * (network(x_t, t, labels) - without)

    return ask
