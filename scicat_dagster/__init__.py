"""From a file writer's announcement on Kafka to a dataset in SciCat, one visible Dagster run per file.

The domain (``settings``, ``messages``, ``nexus``, ``files``, ``schemas``, ``dataset``, ``ingestion``,
``scicat``) is plain Python and never imports Dagster. ``orchestration`` wraps it into an asset, a job and a
sensor; ``definitions`` assembles them. ``demo`` is a facility on a laptop, and nothing of the domain or the
orchestration imports it.
"""
