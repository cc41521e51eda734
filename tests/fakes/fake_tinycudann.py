"""A fake of the package tinycudann for tests: the interface of its bindings/torch/tinycudann/modules.py, on the CPU.

It has nothing of NVIDIA's in it. Modules hold one flat vector ``params``; outputs are of half precision unless float32
is asked for; batches are padded to 256. What a vector means is read here number by number, from the documentation.
"""

from __future__ import annotations

from typing import Any

import torch
from reference.grid import level_sizes
from torch import Tensor, nn

calls: list[str] = []
"""Class and shapes of what was asked, for tests to look at."""


def _pad(n: int, to: int = 16) -> int:
    return -(-n // to) * to


def _grid(config: dict[str, Any], x: Tensor, table: Tensor) -> Tensor:
    """A grid of the documented layout."""
    from fieldforge.encodings.grid import grid, grid_levels

    keys = ("n_levels", "log2_hashmap_size", "base_resolution", "per_level_scale")
    kind = config.get("type") or config["otype"].removesuffix("Grid")
    levels = grid_levels(x.shape[1], type=kind, **{key: config[key] for key in keys if key in config})
    return grid(x, table, levels, config.get("interpolation", "Linear"))


def _n_grid(config: dict[str, Any], n_input_dims: int) -> int:
    kind = config.get("type") or config["otype"].removesuffix("Grid")
    sizes = level_sizes(
        kind, n_input_dims, config.get("n_levels", 16), config.get("log2_hashmap_size", 19),
        config.get("base_resolution", 16), config.get("per_level_scale", 2.0),
    )  # fmt: skip
    return sum(sizes) * int(config.get("n_features_per_level", 2))


class Module(nn.Module):
    def __init__(self, n_params: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype
        self.params = nn.Parameter(torch.zeros(n_params))

    def forward(self, x: Tensor) -> Tensor:
        n = x.shape[0]
        padded = nn.functional.pad(x, (0, 0, 0, -n % 256))
        calls.append(f"{type(self).__name__} {tuple(x.shape)} {self.params.numel()}")
        return self.answer(padded.float(), self.params.to(self.dtype))[:n]

    def answer(self, x: Tensor, params: Tensor) -> Tensor:
        raise NotImplementedError


class Encoding(Module):
    def __init__(
        self, n_input_dims: int, encoding_config: dict[str, Any], seed: int = 1337, dtype: torch.dtype | None = None
    ) -> None:
        self.config = encoding_config
        super().__init__(_n_grid(encoding_config, n_input_dims), dtype or torch.float16)
        self.n_output_dims = encoding_config["n_levels"] * encoding_config["n_features_per_level"]

    def answer(self, x: Tensor, params: Tensor) -> Tensor:
        return _grid(self.config, x, params.float().view(-1, self.config["n_features_per_level"])).to(self.dtype)


class NetworkWithInputEncoding(Module):
    """Hash grids with ReLU networks, which is what the tests ask for."""

    def __init__(
        self, n_input_dims: int, n_output_dims: int, encoding_config: dict[str, Any], network_config: dict[str, Any],
        seed: int = 1337,
    ) -> None:  # fmt: skip
        self.encoding_config, self.network_config, self.n_output_dims = encoding_config, network_config, n_output_dims
        width, n_hidden = network_config["n_neurons"], network_config["n_hidden_layers"]
        n_features = encoding_config["n_levels"] * encoding_config["n_features_per_level"]
        self.shapes = [(width, _pad(n_features)), *[(width, width)] * (n_hidden - 1), (_pad(n_output_dims), width)]
        n_params = sum(a * b for a, b in self.shapes) + _n_grid(encoding_config, n_input_dims)
        super().__init__(n_params, torch.float16)

    def answer(self, x: Tensor, params: Tensor) -> Tensor:
        begin, matrices = 0, []
        for n_out, n_in in self.shapes:
            matrices.append(params[begin : begin + n_out * n_in].view(n_out, n_in).float())
            begin += n_out * n_in
        table = params[begin:].float().view(-1, self.encoding_config["n_features_per_level"])
        h = _grid(self.encoding_config, x, table)
        h = nn.functional.pad(h, (0, self.shapes[0][1] - h.shape[1]))
        for index, matrix in enumerate(matrices):
            h = h @ matrix.T
            h = torch.relu(h) if index + 1 < len(matrices) else h
        return h[:, : self.n_output_dims].half()
