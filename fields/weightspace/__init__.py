"""Fields as data: the weights of many fields as vectors, their symmetries, networks that read them, models of them."""
