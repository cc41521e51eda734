"""Fit a shape: a mesh in, a field of distances or of inside and outside out."""
