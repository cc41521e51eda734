"""Noise schedules of diffusion."""
