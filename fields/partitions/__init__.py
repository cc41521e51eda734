"""Partitions: a field's unit cube as cells, each with networks of its own (KiloNeRF)."""
