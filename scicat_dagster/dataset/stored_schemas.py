"""The schemas of what is stored together: each once, and a number in its place.

A schema is most of what is known of a file, and the same for many files. Whoever stores or reads them gives
pydantic a :class:`StoredSchemas` as the context; without one, each model holds its whole schema.
"""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import (
    SerializationInfo,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    ValidatorFunctionWrapHandler,
    WrapSerializer,
    WrapValidator,
)

from scicat_dagster.schemas.models import Schema


class StoredSchemas:
    """The schemas, by the numbers that stand for them.

    Parameters
    ----------
    stored
        What was stored before, to be read.
    """

    def __init__(self, stored: Sequence[Any] = ()) -> None:
        self.stored = list(stored)
        """Each schema, as pydantic dumps it."""
        self._numbers: dict[int, tuple[Schema, int]] = {}
        """By the schema's ``id``, which is its own while it is kept here."""
        self._read: dict[int, Schema] = {}

    def store(self, schema: Schema, dump: SerializerFunctionWrapHandler) -> int:
        """The number that stands for a schema."""
        if id(schema) not in self._numbers:
            self._numbers[id(schema)] = schema, len(self.stored)
            self.stored.append(dump(schema))
        return self._numbers[id(schema)][1]

    def read(self, number: object, validate: ValidatorFunctionWrapHandler) -> Schema:
        """The schema that a number stands for.

        Raises
        ------
        ValueError
            None was stored under it.
        """
        if not isinstance(number, int) or not 0 <= number < len(self.stored):
            raise ValueError(f"no schema was stored as {number!r}")
        if number not in self._read:
            self._read[number] = validate(self.stored[number])
        return self._read[number]


def _store(
    schema: Schema, dump: SerializerFunctionWrapHandler, info: SerializationInfo[StoredSchemas | None]
) -> object:
    return dump(schema) if info.context is None else info.context.store(schema, dump)


def _read(
    stored: Any, validate: ValidatorFunctionWrapHandler, info: ValidationInfo[StoredSchemas | None]
) -> Schema:
    schema: Schema = validate(stored) if info.context is None else info.context.read(stored, validate)
    return schema


StoredSchema = Annotated[Schema, WrapSerializer(_store), WrapValidator(_read)]
"""A schema, as a field of a model that is stored."""
