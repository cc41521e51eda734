"""Make new fields from the weights of many, and say how new they are."""
