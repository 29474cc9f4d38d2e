"""From a file writer's announcement on Kafka to a dataset in SciCat, one visible Dagster run per file.

The domain (``config``, ``files``, ``kafka``, ``schemas``, ``dataset``, ``scicat``, ``usecases``,
``diagnostics``, ``notifications``) is plain Python and never imports Dagster. ``orchestration`` wraps it into
assets, jobs and sensors; ``definitions`` assembles them; ``instance`` is what ``dagster.yaml`` names.
``demo`` is a facility on a laptop, and nothing but ``cli`` imports it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from scicat_dagster.component import IngestComponent

__all__ = ["IngestComponent"]


def __getattr__(name: str) -> Any:
    """The component, loaded by who asks for it: the domain and ``--help`` do without Dagster."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from scicat_dagster.component import IngestComponent

    return IngestComponent


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
