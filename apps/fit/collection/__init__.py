"""`fit collection`: hundreds of small fields of one shape, fitted side by side."""
