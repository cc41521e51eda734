"""Meshes and point clouds: reading strangers' files, saying what is wrong with them, distances to them."""
