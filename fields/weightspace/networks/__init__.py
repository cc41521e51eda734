"""Networks whose inputs are the weights of fields; one file per method."""
