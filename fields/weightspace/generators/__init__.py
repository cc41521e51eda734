"""Models that make new weights; one file per method."""
