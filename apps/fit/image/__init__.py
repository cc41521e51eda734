"""Fit an image: a photo in, a field of colours out."""
