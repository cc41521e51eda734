"""Collections of fields: what they are, and their ways in and out."""
