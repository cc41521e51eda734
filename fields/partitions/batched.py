"""Parts of which every cell has its own, run for many cells at once.

A loop over cells pays for every operation in every cell, which is most of the time where a cell has few points. Here
cells with about as many points as each other go together: their rows are filled up to the longest, their parameters
are stacked, and `torch.func.vmap` turns each product of a matrix into one of many. A cell that has many points is run
by itself, so what is filled up is never more than there was. A module that cannot be mapped so (a function of autograd
without a rule for it, a decision that depends on values) is run cell by cell as ever.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from fieldforge.backends import offer, provide, use_backend
from fieldforge.encodings.base import Encoding
from fieldforge.fields.networks.stacked import expect_offsets

ROWS_A_CALL = 2**15
"""Filled rows that are run together, so that hidden layers stay in the cache."""
LONGEST = 1024
"""Points of a cell that is run with others; beyond, an operation costs more than to begin it."""
LONGEST_ENCODED = 128
"""The same of encodings, which have kernels of their own for one cell at a time."""


def of_each_cell(one: nn.Module, rows: Tensor, offsets: Tensor, n_output_dims: int) -> Tensor:
    """Each cell's rows through a module with that cell's parameters.

    Args:
        one: whose parameters have an axis more, in front: one row for each of n cells.
        rows: (N, n_in), sorted by cell.
        offsets: (n + 1,) int64; cell i has the rows offsets[i] up to offsets[i + 1].
        n_output_dims: what it gives for a row.

    Returns:
        (N, n_output_dims).

    Raises:
        TypeError, ValueError: offsets do not fit the rows.
    """
    expect_offsets(offsets, len(rows), len(next(one.parameters())))
    run = offer("part_of_cells", rows.device, one=one, rows=rows) or one_by_one
    out: Tensor = run(one, rows, offsets)
    return out.view(-1, n_output_dims)


@provide("part_of_cells", "reference")
def one_by_one(one: nn.Module, rows: Tensor, offsets: Tensor) -> Tensor:
    """One cell after another; this function defines what a part of cells gives."""
    named = {name: stacked.unbind() for name, stacked in one.named_parameters()}
    outs = []
    for cell, part in enumerate(rows.split(offsets.diff().tolist())):
        if len(part) or (cell == 0 and not len(rows)):  # an empty batch still goes through the first one
            outs.append(functional_call(one, {name: each[cell] for name, each in named.items()}, (part,)))
    return torch.cat(outs)


def together(one: nn.Module, rows: Tensor, offsets: Tensor) -> Tensor:
    """The same, cells with about as many rows as each other at once."""
    if not len(rows):
        return one_by_one(one, rows, offsets)
    counts = offsets.diff()
    cells = counts.argsort(descending=True, stable=True)
    longest = LONGEST_ENCODED if isinstance(one, Encoding) else LONGEST
    groups = groups_of(counts[cells].tolist(), longest)
    chosen = cells[: sum(groups)]
    named = {name: stacked.index_select(0, chosen).split(groups) for name, stacked in one.named_parameters()}
    where = torch.empty(len(rows), dtype=torch.int64, device=rows.device)  # of each row among the filled ones
    outs, n_filled = [], 0
    for number, group in enumerate(chosen.split(groups)):
        own, begin = counts[group][:, None], offsets[group][:, None]
        place = torch.arange(int(own[0]), device=rows.device)
        at = begin + torch.minimum(place, own - 1)  # filled up with the cell's last: no number that is not its own
        is_real = place < own
        where[at[is_real]] = n_filled + is_real.flatten().nonzero().squeeze(1)
        n_filled += at.numel()
        parameters = {name: each[number] for name, each in named.items()}
        filled = rows.index_select(0, at.flatten()).view(*at.shape, -1)
        outs.append(_run(one, parameters, filled).flatten(0, 1))
    return torch.cat(outs).index_select(0, where)


def groups_of(counts: list[int], longest: int = LONGEST) -> list[int]:
    """How many cells are run at a time.

    Args:
        counts: rows of each, falling.
        longest: a cell with more is run by itself.

    Returns:
        Cells of each group: the first so many, then the next; those without rows are in none. The shortest of a group
        has half as many rows as the longest or more; together they have `ROWS_A_CALL` when filled, or are one.

    Example:
        >>> groups_of([5000, 90, 60, 40, 3, 2, 1, 0, 0])
        [1, 2, 1, 2, 1]
    """
    groups: list[int] = []
    first, n = 0, 0
    for count in counts:
        if not count:
            break
        if n and first <= longest and 2 * count >= first and (n + 1) * first <= ROWS_A_CALL:
            n += 1
            continue
        if n:
            groups.append(n)
        first, n = count, 1
    return [*groups, n] if n else groups


def _run(one: nn.Module, parameters: Mapping[str, Tensor], filled: Tensor) -> Tensor:
    """(n, m, d_in) rows of n cells -> (n, m, d_out)."""
    if len(filled) == 1:
        out: Tensor = functional_call(one, {name: own[0] for name, own in parameters.items()}, (filled[0],))
        return out[None]
    return _mapped(one, parameters, filled)


def _mapped(one: nn.Module, parameters: Mapping[str, Tensor], filled: Tensor) -> Tensor:
    with use_backend("reference"):  # kernels know nothing of an axis more
        out: Tensor = vmap(partial(functional_call, one))(dict(parameters), (filled,))
    return out


_why_not: WeakKeyDictionary[nn.Module, str] = WeakKeyDictionary()


def why_not_together(one: nn.Module, n_input_dims: int) -> str:
    """Why a module whose parameters are stacked cannot be run for several cells at once; '' if it can. Tried once."""
    if one not in _why_not:
        first = next(one.parameters())
        parameters = {name: stacked.detach()[:1].expand(2, *stacked.shape[1:]) for name, stacked in
                      one.named_parameters()}  # fmt: skip
        try:
            _mapped(one, parameters, first.new_zeros(2, 2, n_input_dims).requires_grad_())
            _why_not[one] = ""
        except RuntimeError as error:  # what vmap raises of whatever it has no rule for
            _why_not[one] = f"it cannot be mapped over cells: {str(error).splitlines()[0]}"
    return _why_not[one]


def _refuses(*, one: nn.Module, rows: Tensor) -> str | None:
    return why_not_together(one, rows.shape[-1]) or None


provide("part_of_cells", "cpu", refuses=_refuses, note=lambda: "PyTorch, many cells at once")(together)
provide("part_of_cells", "cuda", refuses=_refuses, note=lambda: "PyTorch, many cells at once")(together)
