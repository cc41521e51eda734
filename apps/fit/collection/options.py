"""The section ``fit`` of a collection's run file."""

from __future__ import annotations

from dataclasses import dataclass

from fieldforge.apps.fit.options import Options
from fieldforge.checks import expect_choice, expect_int
from fieldforge.fields.shards import MAX_SHARD_FIELDS

MAX_BATCH = 2048
"""Points of an item a step: more would be cut in pieces, and where depends on the fields beside it."""


@dataclass(frozen=True)
class CollectionOptions(Options):
    """Of a collection.

    Args:
        batch_size: points of each item a step, up to `MAX_BATCH`; an image with no more pixels is looked at whole.
        storage: "float32".
        pool_size: of shapes: points that are sampled of each item, and gone through again and again.
        n_in_shard: fields in a file; what a fit that is killed loses at most.
    """

    batch_size: int = 1024
    storage: str = "float32"
    pool_size: int = 2**15
    n_in_shard: int = 256

    def __post_init__(self) -> None:
        super().__post_init__()
        expect_int("batch_size", self.batch_size, 1, MAX_BATCH)
        expect_choice("storage", self.storage, ("float32",))
        expect_int("pool_size", self.pool_size, self.batch_size, 2**20)
        expect_int("n_in_shard", self.n_in_shard, 1, MAX_SHARD_FIELDS)
