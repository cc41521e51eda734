"""Settings chosen before training: by the spectra of untrained networks (FreSh)."""
