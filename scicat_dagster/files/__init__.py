"""Data files on disk: their place, when they are complete, their values, and their manifest."""
