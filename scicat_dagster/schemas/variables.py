"""Evaluating a schema's variables, in their order, against one NeXus file and the catalogue.

A variable that fails does not stop the file: it is noted with its reason, and so is everything that needed
it. Only a storage or a catalogue that is away stops the evaluation, because then trying again helps.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote_plus

from pydantic import JsonValue

from scicat_dagster.errors import Notice, NotInCatalogueError, Reason, UnknownHereError
from scicat_dagster.files.reading import Read
from scicat_dagster.files.values import Reader
from scicat_dagster.schemas.conversion import convert
from scicat_dagster.schemas.models import (
    MESSAGE_VARIABLES,
    NexusVariable,
    Schema,
    ScicatVariable,
    Unusable,
    ValueVariable,
)
from scicat_dagster.schemas.plugins import operator_named
from scicat_dagster.schemas.rendering import UnresolvedError, Value, references, render, render_address

_TAKES_AN_ITEM = frozenset({"getitem", "first", "last"})
"""Operators that need an item in a list."""

_TEXTS = frozenset({"string", "string[]", "email", "link"})
"""Value types whose result is text."""


class Catalogue(Protocol):
    """What ``source: SC`` variables need of the catalogue."""

    def fetch(self, url: str) -> JsonValue:
        """The answer to a GET, ``url`` relative to the API's root or absolute.

        Raises
        ------
        LookupError
            The catalogue has no such thing, or does not show it to us.
        TransientError
            It could not be asked.
        """
        ...


@dataclass
class Evaluation:
    """The values of the variables that succeeded, and a notice for each that failed."""

    values: dict[str, Value] = field(default_factory=dict)
    notices: list[Notice] = field(default_factory=list)
    consequences: set[str] = field(default_factory=set)
    """The variables that failed because another one did."""

    def why(self, error: Exception) -> Reason:
        """Why something has no value; of a consequence of an earlier failure, the first one's text, too."""
        if isinstance(error, UnresolvedError):
            notice = self._failure_of(error)
            if notice is not None and error.name in self.consequences:
                return Reason(notice.reason, notice.is_unknown)
            if notice is not None:
                text = f"It needs <{error.name}>, which failed: {notice.reason}"
                return Reason(text, notice.is_unknown)
            text = f"It uses <{error.name}>, which is not defined before it."
            return Reason(text, error.name in MESSAGE_VARIABLES)
        text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
        return Reason(text, isinstance(error, UnknownHereError), isinstance(error, NotInCatalogueError))

    def _failure_of(self, error: Exception) -> Notice | None:
        """The notice about the variable whose failure is the reason of this one."""
        if not isinstance(error, UnresolvedError):
            return None
        subject = variable_subject(error.name)
        return next((notice for notice in self.notices if notice.subject == subject), None)

    def failed(self, name: str, error: Exception) -> None:
        """Keep in mind that a variable has no value."""
        if self._failure_of(error) is not None:
            self.consequences.add(name)
        self.notices.append(notice_of(variable_subject(name), self.why(error)))
        # The built-in one of this name is not what the schema means.
        self.values.pop(name, None)


def evaluate_variables(
    schema: Schema,
    file: Reader,
    built_in: Mapping[str, Value],
    catalogue: Catalogue,
    notices: Sequence[Notice] = (),
) -> Evaluation:
    """The values of a schema's variables for one file.

    ``built_in`` are those defined before its own, and ``notices`` say why some of these have no value.

    Raises
    ------
    TransientError
        The storage or the catalogue failed; nothing can be said about the file now.
    """
    evaluation = Evaluation(values=dict(built_in), notices=list(notices))
    answers: dict[str, JsonValue | LookupError] = {}
    asked: dict[str, str] = {}
    for name, variable in schema.variables.items():
        try:
            match variable:
                case NexusVariable():
                    found = _from_file(name, variable, file, evaluation.notices)
                case ScicatVariable():
                    url = render_address(
                        variable.url, evaluation.values, schema.variables, _quoted_by_schema(schema)
                    )
                    asked[name] = url
                    found = _from_catalogue(variable, url, catalogue, answers)
                case ValueVariable():
                    rendered = render(variable.value, evaluation.values, schema.variables)
                    _check_answered(variable, rendered, asked)
                    found = _operated(variable, rendered)
                case Unusable():
                    raise ValueError(variable.reason)
            value = Value(convert(found.value, variable.value_type), found.unit)
        except (LookupError, ValueError, TypeError, ArithmeticError, RecursionError) as error:
            evaluation.failed(name, error)
        else:
            evaluation.values[name] = value
    return evaluation


def variable_subject(name: str) -> str:
    """What a notice about a variable is about, as a person reads it and others find it."""
    return f"variables.{name}"


def field_subject(key: str, machine_name: str = "") -> str:
    """The same of a field; one that cannot be used may have no name in SciCat."""
    return f"schema.{key} ({machine_name})" if machine_name else f"schema.{key}"


def notice_of(subject: str, reason: Reason) -> Notice:
    """The notice about something that has no value."""
    return Notice(
        subject=subject,
        reason=reason.text,
        is_unknown=reason.is_unknown,
        is_of_catalogue=reason.is_of_catalogue,
    )


@dataclass(frozen=True)
class Cause:
    """A notice, and the subjects of those that would not be without it."""

    notice: Notice
    affected: tuple[str, ...] = ()

    def as_text(self) -> str:
        """The same for a person."""
        also = f" Also affected: {', '.join(self.affected)}." if self.affected else ""
        return f"{self.notice.subject}: {self.notice.reason}{also}"


def by_cause(notices: Iterable[Notice], schema: Schema) -> list[Cause]:
    """The notices about a file, with what follows from another one together with it."""
    listed = list(notices)
    failed = {notice.subject for notice in listed}
    affected: dict[str, list[str]] = {}
    causes = []
    for notice in listed:
        cause = cause_of(notice.subject, schema, failed)
        if cause == notice.subject:
            causes.append(notice)
        else:
            affected.setdefault(cause, []).append(notice.subject)
    return [Cause(notice, tuple(affected.pop(notice.subject, ()))) for notice in causes]


def cause_of(subject: str, schema: Schema, failed: Collection[str]) -> str:
    """The subject of the first failure that led to another one; its own where none did."""
    seen: set[str] = set()
    while subject not in seen:
        seen.add(subject)
        used = references(_template_of(subject, schema), schema.variables)
        needed = map(variable_subject, used)
        subject = next((name for name in needed if name in failed and name not in seen), subject)
    return subject


def _template_of(subject: str, schema: Schema) -> Any:
    """What is rendered for the variable or field that a notice is about."""
    for name, variable in schema.variables.items():
        match variable:
            case ValueVariable(value=template) | ScicatVariable(url=template):
                if subject == variable_subject(name):
                    return template
    for key, field_ in schema.assignments.items():
        if subject in {field_subject(key), field_subject(key, field_.machine_name)}:
            return field_.value
    return None


def reads_of(schema: Schema) -> Iterator[Read]:
    """What the evaluation of a schema's variables asks of the file; it depends on nothing else."""
    for variable in schema.variables.values():
        if isinstance(variable, NexusVariable):
            yield _read_of(variable)


def _read_of(variable: NexusVariable) -> Read:
    takes_many = variable.value_type.endswith("[]") or variable.value_type == "list"
    return Read(path=variable.path, all=takes_many, as_text=variable.value_type in _TEXTS)


def _from_file(name: str, variable: NexusVariable, file: Reader, notices: list[Notice]) -> Value:
    read = _read_of(variable)
    ask = file.read_all if read.all else file.read_one
    found = ask(read.path, as_text=read.as_text)
    if found.unit_mistake:
        notices.append(Notice(subject=f"variables.{name}.unit", reason=found.unit_mistake))
    return Value(found.value, found.unit if found.states_unit else variable.unit)


def _check_answered(variable: ValueVariable, rendered: Value, asked: Mapping[str, str]) -> None:
    """Say that SciCat found nothing where an item of its answer is wanted, which no schema can mend."""
    if rendered.value == [] and variable.operator in _TAKES_AN_ITEM:
        for name in references(variable.value, asked):
            if name in asked:
                raise _nothing_in_catalogue(asked[name])


def _nothing_in_catalogue(url: str) -> NotInCatalogueError:
    return NotInCatalogueError(f"SciCat has no entry for {unquote_plus(url)}.")


def _quoted_by_schema(schema: Schema) -> frozenset[str]:
    return frozenset(
        name
        for name, variable in schema.variables.items()
        if isinstance(variable, ValueVariable) and variable.operator == "urlsafe"
    )


def _from_catalogue(
    variable: ScicatVariable,
    url: str,
    catalogue: Catalogue,
    answers: dict[str, JsonValue | LookupError],
) -> Value:
    if url not in answers:
        try:
            answers[url] = catalogue.fetch(url)
        except LookupError as error:
            answers[url] = error
    answer = answers[url]
    if isinstance(answer, LookupError):
        raise answer
    if variable.field == "":
        return Value(answer)
    if isinstance(answer, dict) and str(variable.field) in answer:
        return Value(answer[str(variable.field)])
    if isinstance(answer, list) and isinstance(variable.field, int) and variable.field < len(answer):
        return Value(answer[variable.field])
    if answer == []:
        raise _nothing_in_catalogue(url)
    kind = f"a list of {len(answer)}" if isinstance(answer, list) else "an answer"
    raise LookupError(f"The catalogue gave {kind} without the field {variable.field!r} for {url}.")


def _operated(variable: ValueVariable, rendered: Value) -> Value:
    if not variable.operator or variable.missing_arguments:
        return rendered
    try:
        operator = operator_named(variable.operator)
        result = operator.apply(rendered.value, variable.arguments)
    except (LookupError, ValueError, TypeError) as error:
        raise ValueError(f"The operator {variable.operator}: {error}.") from error
    return Value(result, rendered.unit if operator.keeps_unit else "")
