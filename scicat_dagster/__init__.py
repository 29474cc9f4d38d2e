"""From a file writer's announcement on Kafka to a dataset in SciCat, one visible Dagster run per file.

The domain (``config``, ``files``, ``kafka``, ``schemas``, ``dataset``, ``scicat``, ``usecases``,
``diagnostics``, ``notifications``) is plain Python and never imports Dagster. ``orchestration`` wraps it into
assets, jobs and sensors; ``definitions`` assembles them; ``instance`` is what ``dagster.yaml`` names.
``demo`` is a facility on a laptop, and nothing but ``cli`` imports it.
"""
