"""Fields of scenes to clouds of points and meshes, with colours."""
