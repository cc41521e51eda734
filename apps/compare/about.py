"""What the methods that can be compared are, and where they come from: a line each."""

from __future__ import annotations

ABOUT: dict[str, str] = {
    "siren": "sines all through (Sitzmann et al. 2020)",
    "spder": "sines times the root of their size (Shah and Sitawarin, ICLR 2024)",
    "finer": "sines whose frequency grows with their input (Liu et al., CVPR 2024)",
    "wire": "complex Gabor wavelets (Saragadam et al., CVPR 2023)",
    "gauss": "Gaussian bumps (Ramasinghe and Lucey 2022; Chng et al. 2022)",
    "relu": "a ReLU network of the coordinates alone: the control",
    "pe": "octaves of sines and cosines, then ReLU (Mildenhall et al. 2020)",
    "ffn": "random Fourier features, then ReLU (Tancik et al. 2020)",
    "sape": "Fourier features that open where the error is (Hertz et al. 2021)",
    "cam": "grids of scales and shifts after each layer (Lee et al., ICLR 2024)",
    "pins": "a network for each band of frequencies, coarse to fine (Landgraf, Hornung and Cabral 2022)",
    "fan": "layers of cosines and sines beside GELU (Dong et al. 2024)",
    "kan": "layers of learnt splines (Liu et al. 2024)",
    "hourglass": "a wide stream of residual blocks that are narrow inside",
    "hashgrid": "tables of features at several resolutions (Müller et al. 2022)",
    "densegrid": "one lattice of features: the control of hashgrid",
    "rbf": "a grid of features, then Gaussian bumps among the features (Bouzidi et al. 2025)",
    "pref": "features that are kept as their spectrum (Huang et al. 2022)",
    "neurbf": "centres that follow the signal, beside a small grid (Chen et al. 2023)",
    "tensorf": "planes times lines (Chen et al. 2022, vector-matrix)",
    "tensorf-cp": "products of lines (Chen et al. 2022, CP)",
    "kplanes": "products of planes (Fridovich-Keil et al. 2023)",
    "triplane": "three planes, joined (Chan et al. 2022)",
    "vanilla": "octaves and a deep network of rays (Mildenhall et al. 2020), samples where something is",
    "mimlp": "octaves into every layer, for few photos (Zhu et al., CVPR 2024)",
    "auto": "the best of siren, ffn, finer and hashgrid by short trainings, set by the signal's spectrum",
}
"""Name of a method -> what it is (source)."""
