"""The job of ``fieldforge fit image`` as a PyTorch user would write it, a program of its own.

    python -m fieldforge.apps.bench.cpu.plain_fit photo.png out.pt '{"encoding": ..., ...}' 40

Same model, batches, loss, optimizer and schedule as the configuration says; every pixel once an epoch, a share of them
moved between the pixel centres. It stops when the whole picture is good enough, writes the parameters and prints a
line of JSON.
"""

from __future__ import annotations

import json
import math
import sys

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

from fieldforge.apps.bench.peers import PlainHashGrid, plain_mlp


def main(photo: str, output: str, config_json: str, target: str, adam: str = "fused") -> None:
    """Fit, write, print."""
    torch.manual_seed(0)
    config = json.loads(config_json)
    encoding, network, options = config["encoding"], config["network"], config["fit"]
    pixels = torch.from_numpy(np.asarray(Image.open(photo).convert("RGB"), dtype=np.float32) / 255)
    height, width, _ = pixels.shape
    size, flat = torch.tensor([width, height]), pixels.reshape(-1, 3)
    planes = pixels.permute(2, 0, 1)[None]  # (1, 3, H, W)

    grid = PlainHashGrid(
        2, encoding["n_levels"], encoding["n_features_per_level"], encoding["log2_hashmap_size"],
        encoding["base_resolution"], encoding["per_level_scale"],
    )  # fmt: skip
    mlp = plain_mlp(
        encoding["n_levels"] * encoding["n_features_per_level"], network["n_neurons"], network["n_hidden_layers"], 3
    )
    model = nn.Sequential(grid, mlp)
    groups = [
        {"params": list(grid.parameters())},
        {"params": list(mlp.parameters()), "weight_decay": config["optimizer"]["l2_reg"]},
    ]
    optimizer = torch.optim.Adam(
        groups, lr=config["optimizer"]["learning_rate"], betas=(0.9, config["optimizer"]["beta2"]),
        eps=config["optimizer"]["epsilon"], fused=adam == "fused" or None,
    )  # fmt: skip
    n_steps, batch_size = options["n_steps"], options["batch_size"]
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 1 - 0.99 * max(0.0, step / n_steps - 0.5) / 0.5 if step < n_steps else 0.01
    )

    def centres(index: Tensor) -> Tensor:
        return torch.stack([index % width, index // width], -1) + 0.5

    def psnr(index: Tensor) -> float:
        with torch.no_grad():
            colors = torch.cat([model(centres(some) / size) for some in index.split(2**16)])
        return -10 * math.log10(float(functional.mse_loss(colors.clamp(0, 1), flat[index])))

    everything = torch.arange(width * height)
    some = torch.randperm(width * height)[: 2**14]
    queue = torch.empty(0, dtype=torch.int64)
    n_moved = round(options["jitter"] * batch_size)
    quality, step = 0.0, 0
    while step < n_steps:
        if len(queue) < batch_size:
            queue = torch.cat([queue, torch.randperm(width * height)])
        index, queue = queue[:batch_size], queue[batch_size:]
        points, colors = centres(index), flat[index]
        if n_moved:
            points[:n_moved] = torch.minimum(points[:n_moved] + torch.rand(n_moved, 2), size - 0.5)
            where = 2 * points[None, None, :n_moved] / size - 1
            between = functional.grid_sample(planes, where, padding_mode="border", align_corners=False)
            colors[:n_moved] = between[0, :, 0].T
        optimizer.zero_grad()
        functional.mse_loss(model(points / size), colors).backward()
        optimizer.step()
        schedule.step()
        step += 1
        if step % max(1, n_steps // 64) == 0 and psnr(some) >= float(target):
            quality = psnr(everything)
            if quality >= float(target):
                break
    quality = quality or psnr(everything)
    torch.save(model.state_dict(), output)
    print(json.dumps({"psnr": quality, "steps": step}))


if __name__ == "__main__":
    main(*sys.argv[1:])
