"""Fit a sound: a clip in, a field of amplitudes out."""
