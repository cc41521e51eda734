"""How well a network tells fields apart: accuracy over items, its interval, confusions, and what symmetries change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fieldforge.apps.weights.data import Examples
from fieldforge.devices import arrived, device_of, home, working_on
from fieldforge.fields.weightspace.networks.base import WeightNetwork
from fieldforge.fields.weightspace.symmetries import Symmetries

AT_ONCE = 512
N_RESAMPLES = 2000


@torch.no_grad()
def predictions(network: WeightNetwork[Any], vectors: Tensor) -> Tensor:
    """(n, P) to (n, n_output_dims) on the CPU, in evaluation mode, some fields at a time, wherever the network is."""
    return in_parts(network, network, vectors, network.n_output_dims)


@torch.no_grad()
def in_parts(network: nn.Module, ask: Callable[[Tensor], Tensor], vectors: Tensor, n_outputs: int) -> Tensor:
    """`ask` about (n, P) vectors, some at a time, where the network is; (n, n_outputs) on the CPU."""
    network.eval()
    with working_on(device_of(network)) as device:
        parts = [home(ask(arrived(some, device))) for some in vectors.split(AT_ONCE)] if len(vectors) else []
    return torch.from_numpy(np.concatenate(parts)) if parts else torch.zeros(0, n_outputs, device="cpu")


def accuracy_report(
    network: WeightNetwork[Any],
    examples: Examples,
    classes: Sequence[int | str],
    symmetries: Symmetries | None,
    *,
    seed: int = 0,
) -> dict[str, Any]:
    """Figures of a classifier on fields with labels, as JSON.

    Args:
        network: gives a number for each class.
        examples: fields, each with a label.
        classes: names of the labels.
        symmetries: of the fields; None leaves out what needs them.
        seed: of the symmetries that are drawn.

    Returns:
        accuracy; interval, 95 % by resampling items, as all fields of an item are right or wrong together; n_fields,
        n_items; confusion, rows are true labels; permuted and flipped: the accuracy after hidden units changed places,
        and places and signs (where the activation is odd), and `agree_...`, the share of fields whose answer is the
        same as before.
    """
    answers = predictions(network, examples.vectors).argmax(1)
    is_right = answers == examples.labels
    low, high = interval(is_right, examples.items)
    confusion = torch.zeros(len(classes), len(classes), dtype=torch.int64)
    confusion.index_put_((examples.labels, answers), torch.ones_like(answers), accumulate=True)
    found: dict[str, Any] = {
        "accuracy": float(is_right.float().mean()), "interval": [low, high], "n_fields": len(examples),
        "n_items": len(examples.items.unique()), "classes": list(classes), "confusion": confusion.tolist(),
        "largest_class": float(examples.labels.bincount().max() / len(examples)),
    }  # fmt: skip
    if symmetries is None:
        return found
    changes = {"permuted": False} | ({"flipped": True} if symmetries.parity == "odd" else {})
    for name, has_signs in changes.items():
        generator = torch.Generator().manual_seed(seed)
        change = symmetries.draw(len(examples), generator, has_signs=has_signs)
        others = predictions(network, symmetries.apply(examples.vectors, change)).argmax(1)
        found[name] = float((others == examples.labels).float().mean())
        found[f"agree_{name}"] = float((others == answers).float().mean())
    return found


def interval(is_right: Tensor, items: Tensor, share: float = 0.95) -> tuple[float, float]:
    """Where the accuracy lies in that share of resamplings of the items.

    Example:
        >>> interval(torch.ones(4, dtype=torch.bool), torch.arange(4))
        (1.0, 1.0)
    """
    if not len(is_right):
        return 0.0, 1.0
    _, place = items.unique(return_inverse=True)
    n = np.bincount(place.numpy())
    right = np.bincount(place.numpy(), weights=is_right.numpy())
    random = np.random.default_rng(0)
    chosen = random.integers(0, len(n), (N_RESAMPLES, len(n)))
    drawn = right[chosen].sum(1) / n[chosen].sum(1)
    low, high = np.quantile(drawn, [(1 - share) / 2, (1 + share) / 2])
    return round(float(low), 6), round(float(high), 6)
