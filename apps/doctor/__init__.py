"""``fieldforge doctor``: what this installation can do, and why not more.

Versions, processor, devices, then every operation with every backend and the reason where one cannot run, then what
an optional package would add. Nothing is changed, nothing is fetched.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import pkgutil
import platform
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

import torch
from rich.console import Console
from rich.table import Table

from fieldforge import backends, renderers
from fieldforge.kernels import guests, native_cpu
from fieldforge.registry import HOMES, available

CORE = ("fieldforge", "torch", "numpy", "pillow", "tifffile", "OpenEXR", "opencv-python-headless", "matplotlib")

GUEST_PACKAGES = ("tinycudann", "nerfacc")
"""Whose imports may fail in any way, and are tried: `fieldforge.kernels.guests`."""


@dataclass(frozen=True)
class Optional_:
    """A package that is not required: what it adds, and how to get it."""

    module: str
    adds: str
    install: str


OPTIONAL = (
    Optional_("triton", "GPU kernels written in Python", "comes with torch on Linux"),
    Optional_("nerfacc", "ray marching and scans on CUDA", "pip install nerfacc"),
    Optional_(
        "tinycudann",
        "fused networks on NVIDIA GPUs",
        "pip install git+https://github.com/NVlabs/tiny-cuda-nn#subdirectory=bindings/torch (builds against CUDA)",
    ),
    Optional_("open3d", "distances to meshes, surface sampling", "pip install open3d"),
    Optional_("trimesh", "reading meshes", "pip install trimesh"),
)


def main() -> int:
    """Print the report to standard output; returns the exit code 0."""
    console = Console()
    console.print(_versions())
    console.print(_operations())
    console.print(_optional())
    for kind in HOMES:
        console.print(f"[bold]{kind}[/bold]: {', '.join(available(kind))}")
    return 0


def facts() -> dict[str, str]:
    """Name -> value of what a bug report needs: versions, processor, threads, devices."""
    native = native_cpu()
    found = {name: _version(name) or "missing" for name in CORE}
    found |= {
        "python": platform.python_version(),
        "system": platform.platform(terse=True),
        "processor": f"{os.cpu_count()} logical cores, torch uses {torch.get_num_threads()} threads, "
        f"{torch.backends.cpu.get_cpu_capability()}",
        "native CPU core": native.instruction_set() if native else "not built (no C++ compiler at install time)",
    }
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            found[f"cuda:{index}"] = torch.cuda.get_device_name(index)
    else:
        found["cuda"] = "no CUDA device is visible"
    return found


def _versions() -> Table:
    table = Table("", "", title="This installation", title_justify="left", show_header=False)
    for name, value in facts().items():
        table.add_row(name, value)
    return table


def _operations() -> Table:
    for kind in HOMES:
        available(kind)  # loads every built-in part, and with it what it provides to the backends
    for module in pkgutil.iter_modules(renderers.__path__, "fieldforge.renderers."):
        importlib.import_module(module.name)
    table = Table("operation", "backend", "runs", "why not", title="Operations", title_justify="left")
    for row in backends.report():
        table.add_row(row.operation, row.backend, "yes" if row.is_available else "no", row.reason)
    return table


def _optional() -> Table:
    table = Table("package", "version", "adds", "how", title="Optional packages", title_justify="left")
    for one in OPTIONAL:
        found = _version(one.module)
        table.add_row(one.module, found or "-", one.adds, _why_not(one.module) if found else one.install)
    return table


def _why_not(module: str) -> str:
    """Why an installed package is not used, in one line; '' where it is."""
    return guests.missing(module) or "" if module in GUEST_PACKAGES else ""


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return "found" if importlib.util.find_spec(name.replace("-", "_")) else None
