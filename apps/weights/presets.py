"""Named starting points for `weights classify`, each a complete run configuration.

Networks are small: some ten minutes on one core for tens of thousands of fields of a hundred or two numbers. Where the
fields are sine networks, every model, controls among them, reads weights with folded phases.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fieldforge.apps.fit.recipe import Config
from fieldforge.checks import expect_choice

NETWORKS: dict[str, Config] = {
    "odd-graph": {"otype": "OddGraph"},
    "neural-graph": {"otype": "NeuralGraph", "n_channels": 32, "n_layers": 3, "n_frequencies": 32, "deviation": 0.3},
    "graph-transformer": {"otype": "NeuralGraphTransformer", "n_node_channels": 32, "n_edge_channels": 16,
                          "n_layers": 3, "n_heads": 4, "n_frequencies": 32, "deviation": 0.3},
    "nfn": {"otype": "NFN", "n_channels": 64, "n_frequencies": 16, "deviation": 0.3, "head_widths": [256],
            "dropout": 0.2},
    "dws": {"otype": "DWS", "n_channels": 32, "n_hidden_layers": 2},
    "rows": {"otype": "RowEncoder", "row_widths": [128, 128], "n_embedding": 128, "head_widths": [128],
             "codec": {"otype": "Rows", "statistics": "layer"}},
    "planes": {"otype": "ChannelTransformer", "width": 64, "n_layers": 2, "n_heads": 4},
    "flat": {"otype": "FlatMLP", "codec": {"otype": "FlatVector", "statistics": "layer"}},
    "flat-augmented": {"otype": "FlatMLP", "codec": {"otype": "FlatVector", "statistics": "layer"}},
}  # fmt: skip
"""Model -> its network."""

CONTROLS = ("flat", "flat-augmented")
"""A plain MLP, and one that sees hidden units in another order at every look."""

AUGMENTED = ("flat-augmented",)


def preset(model: str, field: Mapping[str, Any]) -> Config:
    """The run configuration of a model.

    Args:
        model: one of `NETWORKS`.
        field: configuration of the fields.

    Raises:
        ValueError: there is no such model.
    """
    network = dict(NETWORKS[expect_choice("model", model, NETWORKS)])
    sine = sine_of(field)
    if sine is not None and model != "planes":
        network = {"otype": "FoldedPhases", "activation": sine, "nested": network}
    adam = {"otype": "Adam", "learning_rate": 2e-3, "epsilon": 1e-8, "relative_decay": 0.01}
    return {
        "weight_network": network,
        "optimizer": adam,
        "schedule": {"otype": "WarmupCosine", "n_warmup_steps": 100},
        "fit": {"n_steps": 5000, "batch_size": 128, "noise": 0.05},
    }


def sine_of(field: Mapping[str, Any]) -> Config | None:
    """The sine of fields that are sine networks."""
    network = field.get("network")
    activation = network.get("activation") if isinstance(network, Mapping) else None
    if isinstance(activation, str):
        activation = {"otype": activation}
    is_sine = isinstance(activation, Mapping) and str(activation.get("otype")).lower() == "sine"
    return dict(activation) if is_sine and activation is not None else None
