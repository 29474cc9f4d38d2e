"""What Dagster does with each kind of failure, and which files have failed."""
