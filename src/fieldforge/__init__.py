"""An engine for neural fields: fit images, shapes and scenes, see them, and generate new ones."""
