# mypy: ignore-errors
"""Kernels of a narrow network, or of many side by side, fused through all layers (Müller et al. 2021).

A program takes a tile of rows through every layer: activations stay on the chip, weights come from the cache, and only
the first layer's input and the last one's output are read and written. Products have factors of the weights' dtype and
float32 sums; biases, activations and pre-activations are float32.

The parameters of a network lie in two rows, padded with zeros: matrices of (WIDTH, IN), DEPTH - 1 times (WIDTH, WIDTH),
(OUT, WIDTH), each row-major; biases of DEPTH times WIDTH, OUT. Padded units meet zeros only.

Going backward, a tile is computed forward again. Its pre-activations wait in a piece of memory that belongs to the
program, is used again for the next tile and stays in the cache; so do the program's own sums of parameter gradients,
which are added up afterwards: no atomics, the same bits in every run on one kind of device.
"""

import triton
import triton.language as tl

from fieldforge.kernels.triton.activation_kernels import activate, slope
from fieldforge.kernels.triton.tuning import tuned

KEY = ["DEPTH", "IN", "WIDTH", "OUT", "PRECISION"]


def _worth_measuring(configs, _, PRECISION, **__):
    """Of three products for each, fewer: they take ten seconds to compile, and with 4 warps do not fit registers."""
    if PRECISION != "tf32x3":
        return configs
    return [one for one in configs if one.num_warps == 8 and one.kwargs["BLOCK"] <= 128] or configs


PRUNE = {"early_config_prune": _worth_measuring}


@triton.jit
def _rows_of(offsets, n, network, IS_GROUPED: tl.constexpr):
    """First row of a network, and the one behind its last."""
    if IS_GROUPED:
        return tl.load(offsets + network), tl.load(offsets + network + 1)
    else:
        return tl.full((), 0, tl.int64), tl.full((), n, tl.int64)


@triton.jit
def _dot(a, b, start, PRECISION: tl.constexpr):
    return tl.dot(a, b, start, input_precision=PRECISION)


@triton.jit
def _bias(biases, first, SIZE: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr):
    """(BLOCK, SIZE) with which the sums of a layer begin."""
    if HAS_BIAS:
        return tl.zeros((BLOCK, SIZE), tl.float32) + tl.load(biases + first + tl.arange(0, SIZE))[None, :]
    else:
        return tl.zeros((BLOCK, SIZE), tl.float32)


@triton.jit
def _inputs(x, row, is_row, first, n_in, CHUNK: tl.constexpr):
    column = first + tl.arange(0, CHUNK)
    return tl.load(
        x + row[:, None] * n_in + column[None, :], mask=is_row[:, None] & (column < n_in)[None, :], other=0.0
    )


@triton.jit
def _first_layer(
    x, row, is_row, weights, biases, n_in,
    IN: tl.constexpr, WIDTH: tl.constexpr, CHUNK: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """(BLOCK, WIDTH) pre-activations."""
    unit = tl.arange(0, WIDTH)
    z = _bias(biases, 0, WIDTH, BLOCK, HAS_BIAS)
    for first in range(0, IN, CHUNK):
        h = _inputs(x, row, is_row, first, n_in, CHUNK).to(weights.dtype.element_ty)
        matrix = tl.load(weights + unit[None, :] * IN + first + tl.arange(0, CHUNK)[:, None])  # transposed
        z = _dot(h, matrix, z, PRECISION)
    return z


@triton.jit
def _layer(
    h, matrix, biases, first_bias,
    WIDTH: tl.constexpr, SIZE: tl.constexpr, BLOCK: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """(BLOCK, WIDTH) activations through a (SIZE, WIDTH) matrix."""
    transposed = tl.load(matrix + tl.arange(0, SIZE)[None, :] * WIDTH + tl.arange(0, WIDTH)[:, None])
    z = _bias(biases, first_bias, SIZE, BLOCK, HAS_BIAS)
    return _dot(h.to(matrix.dtype.element_ty), transposed, z, PRECISION)


@tuned(({"BLOCK": 64}, 4), ({"BLOCK": 64}, 8), ({"BLOCK": 128}, 4), ({"BLOCK": 128}, 8), ({"BLOCK": 256}, 8), key=KEY,
       prune_configs_by=PRUNE)  # fmt: skip
@triton.jit(do_not_specialize=["n"])
def forward(
    x, weights, biases, offsets, out, n, n_networks, n_in, n_out, number, first_number, output_number,
    DEPTH: tl.constexpr, IN: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, CHUNK: tl.constexpr,
    ACTIVATION: tl.constexpr, OUTPUT: tl.constexpr, HAS_BIAS: tl.constexpr, IS_GROUPED: tl.constexpr,
    PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    N_WEIGHTS: tl.constexpr = WIDTH * IN + (DEPTH - 1) * WIDTH * WIDTH + OUT * WIDTH
    n_segments = tl.num_programs(0) // n_networks
    network = tl.program_id(0) // n_segments
    wide = tl.full((), 0, tl.int64)
    weights += (wide + network) * N_WEIGHTS
    biases += (wide + network) * (DEPTH * WIDTH + OUT)
    start, end = _rows_of(offsets, n, network, IS_GROUPED)
    n_tiles = ((end - start + BLOCK - 1) // BLOCK).to(tl.int32)
    for tile in range(tl.program_id(0) % n_segments, n_tiles, n_segments):
        row = start + tile * BLOCK + tl.arange(0, BLOCK)
        is_row = row < end
        z = _first_layer(x, row, is_row, weights, biases, n_in, IN, WIDTH, CHUNK, BLOCK, HAS_BIAS, PRECISION)
        h = activate(z, first_number, ACTIVATION)
        for layer in range(1, DEPTH):
            matrix = weights + WIDTH * IN + (layer - 1) * WIDTH * WIDTH
            z = _layer(h, matrix, biases, layer * WIDTH, WIDTH, WIDTH, BLOCK, HAS_BIAS, PRECISION)
            h = activate(z, number, ACTIVATION)
        last = weights + WIDTH * IN + (DEPTH - 1) * WIDTH * WIDTH
        z = _layer(h, last, biases, DEPTH * WIDTH, WIDTH, OUT, BLOCK, HAS_BIAS, PRECISION)
        channel = tl.arange(0, OUT)
        value = activate(z, output_number, OUTPUT).to(out.dtype.element_ty)
        tl.store(
            out + row[:, None] * n_out + channel[None, :], value, mask=is_row[:, None] & (channel < n_out)[None, :]
        )


@triton.jit
def _add(sums, more):
    tl.store(sums, tl.load(sums) + more)


@triton.jit
def _back(
    dz, h, matrix, sums, bias_sums,
    WIDTH: tl.constexpr, SIZE: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From a layer's (BLOCK, SIZE) output to its (BLOCK, WIDTH) input; adds the gradients of its parameters."""
    place = tl.arange(0, SIZE)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    if HAS_BIAS:
        _add(bias_sums + tl.arange(0, SIZE), tl.sum(dz, 0))
    rounded = dz.to(matrix.dtype.element_ty)
    h = h.to(matrix.dtype.element_ty)
    _add(sums + place, _dot(tl.trans(rounded), h, tl.zeros((SIZE, WIDTH), tl.float32), PRECISION))
    return _dot(rounded, tl.load(matrix + place), tl.zeros(h.shape, tl.float32), PRECISION)


@tuned(
    ({"BLOCK": 64}, 4), ({"BLOCK": 64}, 8), ({"BLOCK": 128}, 8), ({"BLOCK": 32}, 4),
    key=KEY, reset_to_zero=["weight_sums", "bias_sums"], prune_configs_by=PRUNE,
)  # fmt: skip
@triton.jit(do_not_specialize=["n", "n_segments"])
def backward(
    x, grad, weights, biases, offsets, grad_x, weight_sums, bias_sums, kept, n, n_networks, n_segments, n_in, n_out,
    number, first_number, output_number,
    DEPTH: tl.constexpr, IN: tl.constexpr, WIDTH: tl.constexpr, OUT: tl.constexpr, CHUNK: tl.constexpr,
    ACTIVATION: tl.constexpr, OUTPUT: tl.constexpr, HAS_BIAS: tl.constexpr, IS_GROUPED: tl.constexpr,
    NEEDS_X: tl.constexpr, PRECISION: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of part i = network * n_segments + segment, which holds every n_segments-th tile of the network's rows."""
    N_WEIGHTS: tl.constexpr = WIDTH * IN + (DEPTH - 1) * WIDTH * WIDTH + OUT * WIDTH
    N_BIASES: tl.constexpr = DEPTH * WIDTH + OUT
    LAST: tl.constexpr = WIDTH * IN + (DEPTH - 1) * WIDTH * WIDTH
    unit, channel = tl.arange(0, WIDTH), tl.arange(0, OUT)
    wide = tl.full((), 0, tl.int64)
    mine = kept + (wide + tl.program_id(0)) * (DEPTH * BLOCK * WIDTH)
    mine += tl.arange(0, BLOCK)[:, None] * WIDTH + unit[None, :]
    for part in range(tl.program_id(0), n_networks * n_segments, tl.num_programs(0)):
        network = part // n_segments
        own = weights + (wide + network) * N_WEIGHTS
        own_biases = biases + (wide + network) * N_BIASES
        sums = weight_sums + (wide + part) * N_WEIGHTS
        own_bias_sums = bias_sums + (wide + part) * N_BIASES
        start, end = _rows_of(offsets, n, network, IS_GROUPED)
        n_tiles = ((end - start + BLOCK - 1) // BLOCK).to(tl.int32)
        for tile in range(part % n_segments, n_tiles, n_segments):
            row = start + tile * BLOCK + tl.arange(0, BLOCK)
            is_row = row < end
            tl.debug_barrier()  # other threads may still read what was kept of the tile before
            z = _first_layer(x, row, is_row, own, own_biases, n_in, IN, WIDTH, CHUNK, BLOCK, HAS_BIAS, PRECISION)
            tl.store(mine, z)
            h = activate(z, first_number, ACTIVATION)
            for layer in range(1, DEPTH):
                matrix = own + WIDTH * IN + (layer - 1) * WIDTH * WIDTH
                z = _layer(h, matrix, own_biases, layer * WIDTH, WIDTH, WIDTH, BLOCK, HAS_BIAS, PRECISION)
                tl.store(mine + layer * (BLOCK * WIDTH), z)
                h = activate(z, number, ACTIVATION)
            last = _layer(h, own + LAST, own_biases, DEPTH * WIDTH, WIDTH, OUT, BLOCK, HAS_BIAS, PRECISION)
            is_there = is_row[:, None] & (channel < n_out)[None, :]
            given = tl.load(grad + row[:, None] * n_out + channel[None, :], mask=is_there, other=0.0).to(tl.float32)
            of_last = tl.where(is_there, given * slope(last, output_number, OUTPUT), 0.0)
            dh = _back(
                of_last, h, own + LAST, sums + LAST, own_bias_sums + DEPTH * WIDTH, WIDTH, OUT, HAS_BIAS, PRECISION
            )
            tl.debug_barrier()
            for above in range(1, DEPTH):
                layer = DEPTH - above
                z = tl.load(mine + layer * (BLOCK * WIDTH))
                dz = tl.where(is_row[:, None], dh * slope(z, number, ACTIVATION), 0.0)
                below = tl.load(mine + (layer - 1) * (BLOCK * WIDTH))
                h = activate(below, tl.where(layer == 1, first_number, number), ACTIVATION)
                place = WIDTH * IN + (layer - 1) * WIDTH * WIDTH
                dh = _back(
                    dz, h, own + place, sums + place, own_bias_sums + layer * WIDTH, WIDTH, WIDTH, HAS_BIAS, PRECISION
                )
            dz = tl.where(is_row[:, None], dh * slope(tl.load(mine), first_number, ACTIVATION), 0.0)
            if HAS_BIAS:
                _add(own_bias_sums + unit, tl.sum(dz, 0))
            rounded = dz.to(weights.dtype.element_ty)
            for first in range(0, IN, CHUNK):
                column = first + tl.arange(0, CHUNK)
                h0 = _inputs(x, row, is_row, first, n_in, CHUNK).to(weights.dtype.element_ty)
                place0 = unit[:, None] * IN + column[None, :]
                _add(sums + place0, _dot(tl.trans(rounded), h0, tl.zeros((WIDTH, CHUNK), tl.float32), PRECISION))
                if NEEDS_X:
                    dx = _dot(rounded, tl.load(own + place0), tl.zeros((BLOCK, CHUNK), tl.float32), PRECISION)
                    tl.store(
                        grad_x + row[:, None] * n_in + column[None, :], dx.to(grad_x.dtype.element_ty),
                        mask=is_row[:, None] & (column < n_in)[None, :],
                    )  # fmt: skip
