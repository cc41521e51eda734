"""Fitting: the training loop, what it is made of, and the jobs that use it."""
