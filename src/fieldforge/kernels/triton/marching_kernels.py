# mypy: ignore-errors
"""Kernels of rays, boxes and occupancy grids; the functions are ``renderers/marching.py``, ``occupancy.py`` and
``rays.py``.

Product and sum are rounded one after the other (``enable_fp_fusion`` off), so the same samples exist as in the plain
version. `boxes` has (low, cells per length) of each cascade, (n_cascades, 6) float32.
"""

import triton
import triton.language as tl


@triton.jit
def _is_occupied(px, py, pz, boxes, bricks, n_cascades, n_x, n_y, n_z):
    """By the smallest cascade that holds the point; false outside of all."""
    b_y, b_z = (n_y + 3) // 4, (n_z + 3) // 4
    is_found = px != px
    is_found = is_found & (px == px)
    is_occupied = is_found
    for cascade in range(n_cascades):
        box = boxes + 6 * cascade
        ux = (px - tl.load(box)) * tl.load(box + 3)
        uy = (py - tl.load(box + 1)) * tl.load(box + 4)
        uz = (pz - tl.load(box + 2)) * tl.load(box + 5)
        is_here = (ux >= 0) & (ux < n_x) & (uy >= 0) & (uy < n_y) & (uz >= 0) & (uz < n_z) & (is_found == 0)
        x = tl.where(is_here, ux, 0.0).to(tl.int32)
        y = tl.where(is_here, uy, 0.0).to(tl.int32)
        z = tl.where(is_here, uz, 0.0).to(tl.int32)
        row = ((cascade * ((n_x + 3) // 4) + x // 4) * b_y + y // 4) * b_z + z // 4
        brick = tl.load(bricks + row, mask=is_here, other=0)
        bit = ((x % 4) * 16 + (y % 4) * 4 + z % 4).to(tl.int64)
        is_occupied = is_occupied | (is_here & (((brick >> bit) & 1) != 0))
        is_found = is_found | is_here
    return is_occupied


@triton.jit(do_not_specialize=["n"])
def look_up(points, boxes, bricks, out, n, n_cascades, n_x, n_y, n_z, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    px = tl.load(points + 3 * row, mask=row < n, other=0.0)
    py = tl.load(points + 3 * row + 1, mask=row < n, other=0.0)
    pz = tl.load(points + 3 * row + 2, mask=row < n, other=0.0)
    found = _is_occupied(px, py, pz, boxes, bricks, n_cascades, n_x, n_y, n_z)
    tl.store(out + row, found, mask=row < n)


@triton.jit(do_not_specialize=["n_rays", "n_most"])
def march(
    origins, directions, start, end, boxes, bricks, counts, offsets, t0, t1, ray_index, n_rays, n_cascades, n_x, n_y,
    n_z, n_most, n_most_kept, step, cone_angle, max_step,
    GROWS: tl.constexpr, FILLS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """A ray a lane: counts the samples in occupied cells, or (FILLS) writes them from ``offsets[ray]`` on."""
    ray = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_ray = ray < n_rays
    ox, dx = tl.load(origins + 3 * ray, mask=is_ray, other=0.0), tl.load(directions + 3 * ray, mask=is_ray, other=0.0)
    oy = tl.load(origins + 3 * ray + 1, mask=is_ray, other=0.0)
    dy = tl.load(directions + 3 * ray + 1, mask=is_ray, other=0.0)
    oz = tl.load(origins + 3 * ray + 2, mask=is_ray, other=0.0)
    dz = tl.load(directions + 3 * ray + 2, mask=is_ray, other=0.0)
    first = tl.load(start + ray, mask=is_ray, other=0.0)
    last = tl.load(end + ray, mask=is_ray, other=0.0)
    target = tl.zeros((BLOCK,), tl.int64)
    if FILLS:
        target = tl.load(offsets + ray, mask=is_ray, other=0)
    count = tl.zeros((BLOCK,), tl.int32)
    near = first
    k = tl.full((), 0, tl.int32)
    n_alive = tl.full((), 1, tl.int32)
    while n_alive > 0:
        if GROWS:
            far = near + tl.minimum(tl.maximum(near * cone_angle, step), max_step)
        else:
            near = first + k.to(tl.float32) * step
            far = first + (k + 1).to(tl.float32) * step
        middle = 0.5 * (near + far)
        is_before = is_ray & (middle < last) & (count < n_most_kept)
        found = _is_occupied(
            ox + middle * dx, oy + middle * dy, oz + middle * dz, boxes, bricks, n_cascades, n_x, n_y, n_z
        )
        is_kept = is_before & found
        if FILLS:
            tl.store(t0 + target + count, near, mask=is_kept)
            tl.store(t1 + target + count, far, mask=is_kept)
            tl.store(ray_index + target + count, ray, mask=is_kept)
        count += is_kept.to(tl.int32)
        k += 1
        # middles grow along a ray: behind its end nothing follows
        n_alive = tl.max(is_before.to(tl.int32), 0) * (k < n_most).to(tl.int32)
        if GROWS:
            near = far
    if not FILLS:
        tl.store(counts + ray, count.to(tl.int64), mask=is_ray)


@triton.jit
def _slab(rays, directions, place, is_ray, low, high):
    """Of a coordinate: where a ray is between two planes; whether it can be, is parallel to them, and is finite."""
    origin = tl.load(rays + place, mask=is_ray, other=0.0)
    direction = tl.load(directions + place, mask=is_ray, other=0.0)
    is_parallel = direction == 0
    slope = tl.where(is_parallel, 1.0, direction)
    a, b = tl.div_rn(low - origin, slope), tl.div_rn(high - origin, slope)
    enter = tl.where(is_parallel, float("-inf"), tl.minimum(a, b))
    leave = tl.where(is_parallel, float("inf"), tl.maximum(a, b))
    is_between = (is_parallel == 0) | ((low <= origin) & (origin <= high))
    is_finite = (tl.abs(origin) < float("inf")) & (tl.abs(direction) < float("inf"))  # NaN is not
    return enter, leave, is_between & is_finite, is_parallel


@triton.jit(do_not_specialize=["n"])
def intersect_box(
    origins, directions, t_near, t_far, n, low_x, low_y, low_z, high_x, high_y, high_z, near, far, BLOCK: tl.constexpr
):
    """A ray that misses has `near` twice."""
    ray = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    is_ray = ray < n
    enter_x, leave_x, is_x, lies_x = _slab(origins, directions, 3 * ray, is_ray, low_x, high_x)
    enter_y, leave_y, is_y, lies_y = _slab(origins, directions, 3 * ray + 1, is_ray, low_y, high_y)
    enter_z, leave_z, is_z, lies_z = _slab(origins, directions, 3 * ray + 2, is_ray, low_z, high_z)
    enter = tl.maximum(tl.maximum(tl.maximum(enter_x, enter_y), enter_z), near)
    leave = tl.minimum(tl.minimum(tl.minimum(leave_x, leave_y), leave_z), far)
    is_hit = is_x & is_y & is_z & ((lies_x & lies_y & lies_z) == 0) & (leave > enter)
    tl.store(t_near + ray, tl.where(is_hit, enter, near), mask=is_ray)
    tl.store(t_far + ray, tl.where(is_hit, leave, near), mask=is_ray)


@triton.jit
def pack(cells, bricks, n_bricks, n_x, n_y, n_z, threshold, IS_OF_BRICKS: tl.constexpr, BLOCK: tl.constexpr):
    """A bit for each of 4 x 4 x 4 cells above the threshold, or (IS_OF_BRICKS) of 64-bit numbers other than 0."""
    brick = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    b_x, b_y, b_z = (n_x + 3) // 4, (n_y + 3) // 4, (n_z + 3) // 4
    bit = tl.arange(0, 64)
    z = (brick % b_z * 4)[:, None] + (bit % 4)[None, :]
    y = (brick // b_z % b_y * 4)[:, None] + (bit // 4 % 4)[None, :]
    x = (brick // b_z // b_y % b_x * 4)[:, None] + (bit // 16)[None, :]
    cascade = (brick // b_z // b_y // b_x)[:, None]
    is_cell = (brick < n_bricks)[:, None] & (x < n_x) & (y < n_y) & (z < n_z)
    cell = tl.load(cells + ((cascade * n_x + x) * n_y + y) * n_z + z, mask=is_cell, other=0)
    if IS_OF_BRICKS:
        is_set = is_cell & (cell != 0)
    else:
        is_set = is_cell & (cell > threshold)
    word = tl.sum(is_set.to(tl.int64) << bit.to(tl.int64)[None, :], 1)  # no bit twice: the sum is the union
    tl.store(bricks + brick, word, mask=brick < n_bricks)


@triton.jit(do_not_specialize=["n", "n_cells"])
def decay_max(density, cells, fresh, n, n_cells, decay, BLOCK: tl.constexpr):
    """Each cell is there once, so programs do not meet; what is no cell is passed over."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    cell = tl.load(cells + place, mask=place < n, other=-1)
    is_cell = (cell >= 0) & (cell < n_cells)
    old = tl.load(density + cell, mask=is_cell, other=0.0) * decay
    new = tl.load(fresh + place, mask=is_cell, other=0.0)
    larger = tl.where((old > new) | (old != old), old, new)  # NaN of either stays
    tl.store(density + cell, larger, mask=is_cell)
