"""Features to quantities: activations, networks, kinds of fields, and the files that hold them."""
