"""Everything that reads files, prints or loops over steps."""
