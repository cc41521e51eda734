"""``fieldforge compare``: several methods on one signal, side by side, at one budget."""
