"""Networks that a diffusion model of weights asks for the clean ones; one file per method."""
