"""Networks that read the weights of fields: tell what fields are, describe them, and find alike ones."""
