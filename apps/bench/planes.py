"""``fieldforge bench planes``: which digit a field of planes shows, told from its weights (Cardace et al., ICLR 2024).

Each digit has one plane of 8 channels and a small MLP, fitted from random numbers of its own, so that channels come in
any order. The channel-token transformer reads the plane alone and does not mind the order; the plain MLP reads all
weights. Same fields, split, steps, batches, optimizer and schedule; three seeds of training. Shared initialisation,
where a plain MLP does well too, is the control. The digits are halved to 14 x 14 pixels first.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from fieldforge.apps.bench.digits import DIGITS, shrunk
from fieldforge.apps.bench.harness import Row, save, say
from fieldforge.apps.fit.collection.job import fit_collection
from fieldforge.apps.fit.loop import Budget, train
from fieldforge.apps.fit.optimizers.base import Optimizer, Parameters
from fieldforge.fields.collection import Collection
from fieldforge.fields.weightspace.codecs.planes import PlaneChannels
from fieldforge.fields.weightspace.networks.base import WeightNetwork
from fieldforge.registry import build

DATA = Path("../shared/data")
N_DIGITS = 2000
N_TRAIN_SHARE = 0.8
SEEDS = (0, 1, 2)
N_STEPS, BATCH_SIZE, RATE = 1200, 128, 1e-3
NETWORKS: dict[str, dict[str, Any]] = {
    "channel transformer": {"otype": "ChannelTransformer", "width": 64, "n_layers": 2, "n_heads": 4},
    "flat MLP": {"otype": "FlatMLP", "codec": {"otype": "FlatVector", "statistics": "layer"}},
}
CASES = {"random": SEEDS, "shared": SEEDS[:1]}
"""Initialisation of the fields -> seeds of training."""


def run(folder: Path, data: Path | None, *, is_quick: bool) -> None:
    """Fit, train, print, and keep the rows unless `is_quick`.

    Args:
        folder: of the rows.
        data: folder of the digits; None is `DATA`.

    Raises:
        ItemError: it is not there, or holds fewer digits than are needed.
    """
    n_digits, n_steps = (30, 3) if is_quick else (N_DIGITS, N_STEPS)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        source = shrunk((data or DATA) / DIGITS, 14, Path(scratch) / "digits.npz", n_digits)
        for init, seeds in CASES.items():
            begun = time.process_time()
            fields = fit_collection(source, Path(scratch) / init, init=init, preset="triplane", progress="quiet")
            qualities = [quality for quality in fields.qualities if quality is not None]
            psnr, seconds = float(np.mean(qualities)), time.process_time() - begun
            say(f"{init:7} {len(fields)} fields of {fields.n_parameters} parameters  PSNR {psnr:.2f} dB  "
                f"{seconds:.0f} s of CPU")  # fmt: skip
            examples = Examples.of(fields)
            for name, config in NETWORKS.items():
                for seed in seeds[: 1 if is_quick else None]:
                    figures, seconds = _measure(fields, examples, config, seed, n_steps)
                    sizes = {"fields": len(fields), "parameters": fields.n_parameters, "seed": seed, "psnr": psnr,
                             "network": config, "steps": n_steps}  # fmt: skip
                    rows.append(Row("planes", init, name, sizes, seconds, 0.0, n_steps / seconds, quality=figures))
                    say(f"{init:7} {name:20} seed {seed}  test {figures['accuracy']:.3f}  channels moved "
                        f"{figures['accuracy_moved']:.3f}  largest change {figures['largest_change']:.1e}  "
                        f"training set {figures['accuracy_training']:.3f}  {seconds:.0f} s of CPU")  # fmt: skip
    if not is_quick:
        say(f"rows: {save(folder, 'planes', rows)}")


@dataclass(frozen=True)
class Examples:
    """Weights (n, P) and labels (n,) of a training set and of a test set, split by item."""

    vectors: Tensor
    labels: Tensor
    test_vectors: Tensor
    test_labels: Tensor

    @classmethod
    def of(cls, fields: Collection) -> Examples:
        labels, vectors = torch.tensor(fields.labels), fields.rows()
        trains = torch.tensor(fields.splits) < N_TRAIN_SHARE
        return cls(vectors[trains], labels[trains], vectors[~trains], labels[~trains])


def _measure(
    fields: Collection, examples: Examples, config: Mapping[str, Any], seed: int, n_steps: int
) -> tuple[dict[str, float], float]:
    """Accuracies of a network trained on the fields, and the processor time that its training took."""
    begun = time.process_time()
    network: WeightNetwork[Any] = build(
        "weight_network", config, layout=fields.layout, n_output_dims=10, generator=torch.Generator().manual_seed(seed)
    )
    network.fit(examples.vectors)
    classify(network, examples, seed, n_steps)
    seconds = time.process_time() - begun
    generator = torch.Generator().manual_seed(seed)
    codec = PlaneChannels(fields.layout)
    n, n_features = len(examples.test_vectors), codec.n_channels // codec.n_planes
    order = torch.rand(n, n_features, generator=generator).argsort(1)
    with torch.no_grad():
        answers = network(examples.test_vectors)
        moved = network(codec.move_channels(examples.test_vectors, order))
        training = network(examples.vectors)
    return {
        "accuracy": _share(answers, examples.test_labels), "accuracy_moved": _share(moved, examples.test_labels),
        "largest_change": float((answers - moved).abs().max()),
        "accuracy_training": _share(training, examples.labels),
    }, seconds  # fmt: skip


def classify(network: WeightNetwork[Any], examples: Examples, seed: int, n_steps: int) -> None:
    """Train on batches that follow from seed and step."""
    optimizer: Optimizer = build(
        "optimizer", {"otype": "Adam", "learning_rate": RATE, "epsilon": 1e-8, "relative_decay": 0.01},
        parameters=Parameters(matrix=list(network.parameters())),
    )  # fmt: skip

    def advance(step: int, factor: float) -> tuple[float, float]:
        generator = torch.Generator().manual_seed((seed << 32) + step)
        chosen = torch.randint(len(examples.labels), (BATCH_SIZE,), generator=generator)
        optimizer.zero_grad()
        answers = network(examples.vectors[chosen])
        loss = functional.cross_entropy(answers, examples.labels[chosen])
        loss.backward()
        optimizer.set_learning_rate_factor(factor)
        optimizer.step()
        return float(loss.detach()), 1 - _share(answers.detach(), examples.labels[chosen])

    schedule = build("schedule", {"otype": "WarmupCosine", "n_warmup_steps": min(100, n_steps // 3)})
    train(advance, optimizer, schedule, Budget(n_steps), batch_size=BATCH_SIZE)


def _share(answers: Tensor, labels: Tensor) -> float:
    return float((answers.argmax(1) == labels).float().mean())
