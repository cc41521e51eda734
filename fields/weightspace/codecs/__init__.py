"""Forms in which a field's weights are given to a network; one file per codec."""
