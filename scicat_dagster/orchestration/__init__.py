"""The ingestion pipeline in Dagster: an asset with one partition per file, its job, and a sensor.

Thin shells only: each fetches what the domain needs, calls one of its functions and wraps the answer. A rule
about files, messages, schemas or the catalogue does not belong here.
"""
