"""Runs that have started: the sample that each makes, and those that never ended."""
