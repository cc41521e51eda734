"""Activations: one file for the plain ones, one for each published method."""
