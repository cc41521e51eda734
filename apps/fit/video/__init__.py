"""Fit a film: frames in, a field of colours over place and time out."""
