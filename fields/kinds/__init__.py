"""What a field can be of: one file for each kind."""
