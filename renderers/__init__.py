"""Rays, samples and callables to pictures: pure functions that never see a model class."""
