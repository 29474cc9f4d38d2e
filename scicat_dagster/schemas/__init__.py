"""The metadata schema files (``*.imsc.yml``): what a facility says a dataset consists of.

``models`` is the shape of a file, ``loading`` reads a folder of them, ``selection`` decides which one a data
file belongs to, ``variables`` evaluates their variables with ``operators``, ``rendering`` and ``conversion``.
What becomes of the values is the business of :mod:`scicat_dagster.dataset`.
"""
