"""What dagster.yaml names: storage, run coordinator, run launchers, and the processes that execute runs."""
