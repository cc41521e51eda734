"""Fields to picture files."""
