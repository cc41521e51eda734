"""Every kernel that the wrappers start, made into machine code for compute capability 8.0 and 9.0, without a device.

The wrappers run on CPU tensors; instead of starting a kernel, its launch compiles it for the very arguments. So what
the interpreter lets pass and the compiler does not (a type, a shape, a name) is found on any machine with Triton.
``test_triton_everywhere.py`` runs this; it is no test of numbers, which stay unwritten.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from fakes.fake_cuda_driver import FakeDriver
from interpreted import needs_compiler
from reference.activations import NATIVE
from torch import Tensor

from fieldforge.encodings.grid import Grid, grid
from fieldforge.fields.networks.mlp import MLP
from fieldforge.kernels.cpu_marching import Walk
from fieldforge.kernels.triton import adam as adam_ops
from fieldforge.kernels.triton import door, draws, formulas
from fieldforge.kernels.triton import grid as grid_ops
from fieldforge.kernels.triton import interpolation as interpolation_ops
from fieldforge.kernels.triton import marching as marching_ops
from fieldforge.kernels.triton import mlp as mlp_ops
from fieldforge.kernels.triton import rendering as rendering_ops
from fieldforge.kernels.triton import sampling as sampling_ops
from fieldforge.renderers.marching import Stride
from fieldforge.renderers.occupancy import make_cascades

pytestmark = needs_compiler
TYPES = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64",
    torch.bool: "*i1",
}  # fmt: skip
SHARED_MEMORY = 99 * 1024
"""Bytes that a program may have on the cards for games, which have least."""
MODULES = (
    grid_ops, mlp_ops, formulas, adam_ops, rendering_ops, marching_ops, draws, sampling_ops, interpolation_ops,
)  # fmt: skip


def compile_instead(made: list[str]) -> Callable[..., None]:
    """What stands in the place of `door.launch`: notes 'kernel sm_90' for each that was compiled."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    def launch(kernel: Any, _: Any, *arguments: Any, **constants: Any) -> None:
        options = {name: constants.pop(name) for name in ("num_warps", "enable_fp_fusion") if name in constants}
        if hasattr(kernel, "configs"):
            kernel.nargs = {}
            config = kernel.prune_configs(constants)[0]
            options |= {"num_warps": config.num_warps, "num_stages": config.num_stages}
            constants |= config.kwargs
            kernel = kernel.fn
        values = dict(zip(kernel.arg_names, arguments, strict=False)) | constants
        assert set(values) == set(kernel.arg_names), set(values) ^ set(kernel.arg_names)
        fixed = {kernel.arg_names[i] for i in kernel.constexprs} | {name for name, v in values.items() if v is None}
        # as Triton's own launch does
        seen = {one.name for one in kernel.params if not one.do_not_specialize}
        fixed |= {name for name, v in values.items() if name in seen and isinstance(v, int) and v == 1}
        signature = {name: "constexpr" if name in fixed else _type(value) for name, value in values.items()}
        source = ASTSource(kernel, signature, {(kernel.arg_names.index(name),): values[name] for name in fixed})
        for capability in (80, 90):
            compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
            assert compiled.metadata.shared <= SHARED_MEMORY, (kernel.__name__, compiled.metadata.shared)
            if "PRECISION" in values:  # a product of two matrices without matrix units is a megabyte of code
                assert "mma" in compiled.asm["ptx"], (kernel.__name__, values["PRECISION"])
            made.append(f"{kernel.__name__} sm_{capability}")

    return launch


def _type(value: Any) -> str:
    if isinstance(value, Tensor):
        return TYPES[value.dtype]
    return "fp32" if isinstance(value, float) else "i32"


@pytest.fixture(autouse=True)
def tuned_as_on_a_card() -> None:
    """Kernels are imported before anybody says that there is an interpreter, which has one configuration of each."""
    for name in ("grid", "interpolation", "mlp"):
        importlib.import_module(f"fieldforge.kernels.triton.{name}_kernels")


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    names: list[str] = []
    monkeypatch.setattr(door, "is_interpreted", lambda: True)
    for module in MODULES:
        monkeypatch.setattr(module, "launch", compile_instead(names))
    yield names
    assert names


@pytest.mark.parametrize(
    ("n_dims", "n_features", "interpolation", "dtype"),
    [(1, 1, "Nearest", torch.float32), (2, 4, "Smoothstep", torch.float16), (3, 2, "Linear", torch.float32),
     (4, 8, "Linear", torch.bfloat16)],
)  # fmt: skip
def test_the_grid(made: list[str], n_dims: int, n_features: int, interpolation: str, dtype: torch.dtype) -> None:
    encoding = Grid(n_dims, n_levels=2, log2_hashmap_size=6, n_features_per_level=n_features).to(dtype)
    x = torch.rand(20, n_dims, requires_grad=True)
    for is_deterministic in (False, True):
        out = grid_ops.grid(
            x, encoding.table, encoding.levels, interpolation, reference=grid, is_deterministic=is_deterministic
        )
        torch.autograd.grad(out, (x, encoding.table), torch.zeros_like(out))
    assert "forward sm_90" in made


@pytest.mark.parametrize(
    ("dtype", "width", "n_hidden", "n_in", "n_out", "has_bias"),
    [
        (torch.float16, 64, 5, 32, 3, False),
        (torch.bfloat16, 128, 2, 70, 17, True),
        (torch.float32, 16, 1, 3, 1, True),
        (torch.float32, 64, 2, 32, 4, False),
    ],
)
def test_the_network(
    made: list[str], dtype: torch.dtype, width: int, n_hidden: int, n_in: int, n_out: int, has_bias: bool
) -> None:
    run_network(
        MLP(n_in, n_out, n_neurons=width, n_hidden_layers=n_hidden, has_bias=has_bias).to(dtype), torch.tensor([0, 20])
    )
    assert made == ["forward sm_80", "forward sm_90", "backward sm_80", "backward sm_90"]


@pytest.mark.parametrize("activation", NATIVE, ids=lambda a: "-".join(map(str, a.values())))
def test_every_activation(made: list[str], activation: dict[str, object]) -> None:
    run_network(MLP(3, 1, n_neurons=16, n_hidden_layers=1, activation=activation, output_activation=activation))


@pytest.mark.parametrize(
    ("name", "given"),
    [("frequency", 12), ("triangle_wave", 12), ("one_blob", 16), ("spherical_harmonics", 5),
     ("random_fourier", torch.zeros(70, 3))],
)  # fmt: skip
@pytest.mark.parametrize("n", [1, 20])
def test_the_formulas(made: list[str], name: str, given: int | Tensor, n: int) -> None:
    x = torch.rand(n, 3, requires_grad=True)
    out = getattr(formulas, name)(x, given, reference=lambda x: x)
    torch.autograd.grad(out, x, torch.zeros_like(out))
    assert made[-1] == f"{name}_backward sm_90"


@pytest.mark.parametrize("extra", [0.0, 0.1])
def test_adam(made: list[str], extra: float) -> None:
    one, counts = torch.zeros(20), torch.zeros(20, dtype=torch.int32)
    keys = {name: extra for name in ("l2", "relative_decay", "limit", "gradient_limit")}
    adam_ops.step(one, one, one, one, rate=0.1, beta1=0.9, beta2=0.9, epsilon=extra, **keys)
    adam_ops.step(
        one, one, one, one, rate=0.1, beta1=0.9, beta2=0.9, epsilon=1e-8, counts=counts, corrections=one, **keys
    )


def test_the_permutation(made: list[str]) -> None:
    draws.permute(torch.arange(20), 20, torch.zeros(20, dtype=torch.int64))


@pytest.mark.parametrize(
    ("dtype", "n_channels"),
    [(torch.float32, 3), (torch.float16, 1), (torch.bfloat16, 70)],
)
def test_rendering(made: list[str], dtype: torch.dtype, n_channels: int) -> None:
    """Of values, colours and densities of a dtype."""
    offsets, t, color = torch.tensor([0, 3, 5]), torch.zeros(5), torch.zeros(5, n_channels, dtype=dtype)
    values, values_of = torch.zeros(5, requires_grad=True), color.clone().requires_grad_()
    density = values.detach().to(dtype).requires_grad_()
    for kind in ("inclusive_sum", "exclusive_sum", "inclusive_prod", "exclusive_prod"):
        out = rendering_ops.scan(values, offsets, kind, reference=lambda values, offsets: values)
        torch.autograd.grad(out, values, torch.zeros(5))
    out = rendering_ops.accumulate(values, values_of, offsets, reference=lambda weights, values: values)
    torch.autograd.grad(out, (values, values_of), torch.zeros(2, n_channels))
    for given in (color, values_of):
        seen = rendering_ops.composite(t, t, offsets, density, given, reference=lambda *_: (t, t, t, t))
        torch.autograd.grad(seen[0], density, torch.zeros(2, n_channels), retain_graph=True)
        torch.autograd.grad(seen, density, [torch.zeros_like(one) for one in seen])
    assert {"product_backward sm_90", "composite_backward sm_80", "accumulate_backward sm_90"} <= set(made)


@pytest.mark.parametrize("cone_angle", [0.0, 0.1])
def test_marching(made: list[str], cone_angle: float) -> None:
    cascades = make_cascades((0, 0, 0), (1, 1, 1), 8, 2)
    points, bricks = torch.zeros(3, 3), torch.zeros(2, 2, 2, 2, dtype=torch.int64)
    marching_ops.look_up(points, cascades, bricks)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "empty", torch.zeros)  # the counts are not written here
        stride = Stride(0.1, cone_angle, 1.0, 20)
        marching_ops.march(Walk(points, points, points[:, 0], points[:, 0], cascades, bricks, bricks, stride, 9, 9))
    assert made.count("march sm_90") == 2


@pytest.mark.parametrize("n_rays", [1, 3])
def test_searching(made: list[str], n_rays: int) -> None:
    edges, offsets = torch.zeros(6), torch.zeros(n_rays + 1, dtype=torch.int64)
    sampling_ops.searchsorted(edges, offsets, edges, offsets)
    sampling_ops.inverse_cdf(edges, edges, offsets, torch.zeros(n_rays, 4 if n_rays > 1 else 1))
    assert made[1::2] == ["searchsorted sm_90", "inverse_cdf sm_90"]


@pytest.mark.parametrize("resolution", [8, (1, 1, 1), (1, 9, 4)])
def test_boxes_and_cells(made: list[str], resolution: int | tuple[int, int, int]) -> None:
    cascades = make_cascades((0, 0, 0), (1, 1, 1), resolution, 1)
    points, density = torch.zeros(3, 3), torch.zeros(1, *cascades.resolution)
    marching_ops.intersect_box(points, points, (0, 0, 0), (1, 1, 1), 0.0, 1.0)
    marching_ops.look_up(points[:1], cascades, marching_ops.pack(density, 0.5, cascades)[0])
    marching_ops.decay_max(density, torch.tensor([0]), torch.zeros(1), 0.5)
    assert made[1::2] == [f"{name} sm_90" for name in ("intersect_box", "pack", "pack", "look_up", "decay_max")]


@pytest.mark.parametrize(
    ("shape", "dtype"), [((2, 1), torch.float16), ((9, 5, 40), torch.float32), ((3, 4, 5, 7), torch.bfloat16)]
)
def test_interpolation(made: list[str], shape: tuple[int, ...], dtype: torch.dtype) -> None:
    table = torch.zeros(shape, dtype=dtype, requires_grad=True)
    x = torch.zeros(20, len(shape) - 1, requires_grad=True)
    out = interpolation_ops.interpolate(table, x, reference=lambda table, x: x)
    torch.autograd.grad(out, (table, x), torch.zeros_like(out))
    assert made[1::2] == ["forward sm_90", "backward_to_table sm_90", "backward_to_points sm_90"]


def test_triton_starts_and_tunes_them_as_the_wrappers_ask(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Through Triton's own start; what was measured is kept on disk, and a last batch is neither measured nor compiled
    again."""
    from triton.runtime import driver

    from fieldforge.kernels.triton import grid_kernels

    fake = FakeDriver(90)
    monkeypatch.setattr(driver, "_active", fake)
    monkeypatch.setattr(door, "is_interpreted", lambda: True)
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    encoding = Grid(3, n_levels=2, log2_hashmap_size=6)
    kernels = grid_kernels.forward, grid_kernels.backward_to_table

    def learn(n: int) -> None:
        fake.n_measured = 0
        x = torch.rand(n, 3)
        grid_ops.grid(x, encoding.table, encoding.levels, "Linear", reference=grid).sum().backward()

    try:
        learn(20)
        assert fake.n_measured == sum(len(kernel.configs) for kernel in kernels)
        assert fake.started.count("backward_to_table") >= 1
        files = sorted(path.name for path in tmp_path.rglob("*.autotune.json"))
        assert files == ["backward_to_table.autotune.json", "forward.autotune.json"]
        compiled = sum(1 for _ in tmp_path.rglob("*.cubin"))
        for kernel in kernels:
            kernel.cache.clear()  # as in another process
        learn(32)
        learn(1)
        assert fake.n_measured == 0
        assert sum(1 for _ in tmp_path.rglob("*.cubin")) == compiled
    finally:
        for kernel in kernels:
            kernel.cache.clear()
            kernel.fn.device_caches.clear()


def run_network(network: MLP, offsets: Tensor | None = None) -> None:
    """Forward and backward; as a stack of one where there are offsets."""
    shape = mlp_ops.describe(network, (network.n_input_dims, *(layer.weight.shape[0] for layer in network.layers)))
    assert not isinstance(shape, str)
    parameters = [[layer.weight for layer in network.layers], []]
    if network.has_bias:
        parameters[1] = [layer.bias for layer in network.layers]
    if offsets is not None:
        parameters = [[tensor[None] for tensor in group] for group in parameters]
    x = torch.zeros(20, network.n_input_dims, dtype=parameters[0][0].dtype, requires_grad=True)
    out = mlp_ops.mlp(x, *parameters, shape, offsets=offsets, reference=lambda x, w, b: x)
    torch.autograd.grad(out, x, torch.zeros_like(out))
