"""The ingestion pipeline: asset, job, ops, the sensors that request its runs, and its checks."""
