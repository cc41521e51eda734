"""Fit a scene: posed photos in, a field of radiance out."""
