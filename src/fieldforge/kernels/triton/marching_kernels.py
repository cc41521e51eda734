# mypy: ignore-errors
"""Kernels of marching through an occupancy grid; the functions are ``renderers/marching.py`` and ``occupancy.py``.

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
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
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
            tl.store(ray_index + target + count, ray.to(tl.int64), mask=is_kept)
        count += is_kept.to(tl.int32)
        k += 1
        # middles grow along a ray: behind its end nothing follows
        n_alive = tl.max(is_before.to(tl.int32), 0) * (k < n_most).to(tl.int32)
        if GROWS:
            near = far
    if not FILLS:
        tl.store(counts + ray, count.to(tl.int64), mask=is_ray)
