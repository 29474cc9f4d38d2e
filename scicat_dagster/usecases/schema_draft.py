"""A first metadata schema, drafted from what is in one NeXus file.

What a dataset must have is assigned from the file or from SciCat, as far as that can be told, and is a gap
(``<FILL_IN>``) where only a person knows it: a reference to nothing, which ``validate`` names with its line.
Single values and logs of the file become entries of the scientific metadata. Names and values of a file are
hostile: each is quoted, or is cut to one printable line of a comment. Source: the NeXus base classes
``NXentry``, ``NXuser``, ``NXlog``.
"""

from __future__ import annotations

import json
import os
import re
import textwrap
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from scicat_dagster.config.placeholders import GAP
from scicat_dagster.dataset.fields import MANDATORY, RECOMMENDED
from scicat_dagster.files.reading import look_at, read_linked_files, read_members
from scicat_dagster.files.values import Member
from scicat_dagster.schemas.models import BUILT_IN_VARIABLES

WHERE_FROM: Mapping[str, str] = {
    "owner": "Who the data belong to: the principal investigator, or a person in the file (NXuser).",
    "contactEmail": "An e-mail address that is read: the principal investigator's, or the facility's.",
    "sourceFolder": "A folder that holds all files of the dataset. The operator dirname is the data's own; "
    "dirname-2 is the one above, for data in a folder raw with checksums in ../ingestor. With dirname, set "
    "ingestion.file_handling.ingestor_files_directory in the configuration to ingestor.",
    "creationTime": "When the measurement was done; <now> is when the file is registered.",
    "principalInvestigator": "A name, from SciCat's proposal or from the file.",
    "creationLocation": "Facility and instrument, such as ESS:ODIN.",
    "ownerGroup": "The group that may see the dataset and change it, such as <proposal_id>. Where it is the "
    "same for all files, remove this field and set dataset.default_owner_group in the configuration.",
    "datasetName": "What people see in lists.",
    "description": "What people search for.",
    "proposalId": "The proposal as SciCat names it. Where the file does not name it, its path may (operator "
    "regex). Write no constant: it would be wrong from the next proposal on.",
    "instrumentId": "The instrument's pid in SciCat.",
}
"""What each mandatory and recommended field is, and where it may come from."""

IDENTIFIER = (
    "A value that no other measurement has, such as a UUID from the file writer. If another program has "
    "registered the measurement already, its dataset is found by it, and no second one is made. A name or a "
    "number that comes again is none. ingestion.check_if_dataset_exists_by_metadata_key names the entry."
)
"""What the entry ``job_id`` of the scientific metadata is for."""

_ENTRY_FIELDS: tuple[tuple[str, tuple[str, ...], str], ...] = (
    ("title", ("title",), "string"),
    ("description", ("experiment_description",), "string"),
    ("proposal_id", ("experiment_identifier",), "string"),
    ("run_number", ("run_number", "entry_identifier"), "string"),
    ("job_id", ("entry_identifier_uuid", "entry_identifier"), "string"),
    ("start_time", ("start_time",), "date"),
    ("end_time", ("end_time",), "date"),
)
"""Names of variables, and the fields of NXentry of which each reads the first that there is."""

_DATA_FOLDER = "raw"
"""Whose folder above holds what belongs to the same proposal or measurement, such as ``../ingestor``."""

_DATE_FIELDS = (("startTime", "start_time"), ("endTime", "end_time"))

_PROPOSALS = "  # Proposals: remove the # of what you want."

_LEFT_OUT_CLASSES = frozenset(
    {"NXcite", "NXcue", "NXdata", "NXevent_data", "NXnote", "NXtransformations", "NXuser"}
)
"""Groups whose values describe no measurement, or are its data."""

_TELLING_CLASSES = frozenset(
    {
        "NXattenuator",
        "NXbeam",
        "NXcrystal",
        "NXdisk_chopper",
        "NXentry",
        "NXenvironment",
        "NXinsertion_device",
    }
    | {"NXinstrument", "NXmonochromator", "NXsample", "NXsource", "NXvelocity_selector"}
)
"""Groups directly in which stands what tells one measurement from another."""

_SEVERAL_CLASSES = frozenset({"NXcollection", "NXpositioner", "NXprocess"})
"""Groups that hold a state of everything there is."""

_SINGLE_PRECISION = frozenset({"float16", "float32"})

_COUNTED = {
    ("NXmonitor", "data"): ("sum", "counts"),
    ("NXmonitor", "integral"): ("sum", "total"),
    ("NXdetector", "polar_angle"): ("length", "pixels"),
    ("NXdetector", "detector_number"): ("length", "pixels"),
}
"""By class of a group and name of its dataset, the operator that makes one number of it, and its name."""

_NOT_LISTED = frozenset({"default", "file_name", "file_time"})
"""Attributes that every file has, or that say how it is to be read."""

_DIMENSIONS_OF_A_STACK = 3

_MOST_DIFFERENT = 8

_MOST_ENTRIES = 60
_MOST_LISTED = 100
_LONGEST_LIST = 16
_LONGEST_LOG = 1_000_000
_LONGEST_NAME = 100


@dataclass(frozen=True)
class _Variable:
    """A variable's definition as lines, and what a reader should know about it."""

    name: str
    definition: Mapping[str, str]
    comment: str = ""
    is_proposal: bool = False
    """Whether it is written as a comment."""


@dataclass
class _Draft:
    """What is in the file by path, and what was made of it so far."""

    members: Mapping[str, Member]
    linked: tuple[str, ...] = ()
    """Names of other files that it refers to."""
    entry: str = ""
    """The path of the one NXentry that the schema is about."""
    others: tuple[str, ...] = ()
    """Those of all others."""
    variables: list[_Variable] = field(default_factory=list)
    taken: set[str] = field(default_factory=set)
    """Paths that a variable reads."""

    def has(self, name: str) -> bool:
        return any(variable.name == name for variable in self.variables)

    def is_of_another(self, path: str) -> bool:
        """Whether a path is in another NXentry than the one that the schema is about."""
        return any(f"{path}/".startswith(f"{other}/") for other in self.others)

    def add(self, name: str, comment: str = "", *, is_proposal: bool = False, **definition: str) -> str:
        """Define a variable under a name that is free, which is returned."""
        free, number = name, 2
        while self.has(free) or free in BUILT_IN_VARIABLES:
            free, number = f"{name}_{number}", number + 1
        self.variables.append(_Variable(free, definition, comment, is_proposal))
        return free

    def read(self, name: str, path: str, value_type: str, *, is_proposal: bool = False) -> str:
        """Define a variable that reads a path of the file."""
        if not is_proposal:
            self.taken.add(path)
        definition = {"source": "NXS", "path": path, "value_type": value_type}
        return self.add(name, self.about(path), is_proposal=is_proposal, **definition)

    def about(self, path: str) -> str:
        """Class of the group, type, shape, unit and value of a dataset, as one line."""
        member = self.members[path]
        group = self.members.get(path.rpartition("/")[0])
        shape = "×".join(map(str, member.shape or ())) if member.size != 1 else ""
        facts = (group.nexus_class if group else "", member.type, shape, member.unit)
        shown = ", ".join(_one_line(fact) for fact in facts if fact)
        return f"{shown}: {_one_line(member.text)}" if member.text else shown

    def single(self, path: str) -> bool:
        member = self.members.get(path)
        return member is not None and member.size == 1 and bool(member.type)

    def first_of_class(self, nexus_class: str, below: str) -> str:
        """The first group of a class directly in another one; empty where there is none."""
        return next(
            (
                path
                for path, member in self.members.items()
                if member.nexus_class == nexus_class and path.rpartition("/")[0] == below
            ),
            "",
        )


def draft_schema(file: Path) -> str:
    """A first schema for the files of an instrument, from one of them, as the text of a schema file.

    Raises
    ------
    TransientError
        The file cannot be read now.
    PermanentError
        It cannot be read, or has more members than anybody can look at.
    """
    # Not resolved: a symbolic link is the path that a message would name.
    path = Path(os.path.abspath(file))  # noqa: PTH100
    members = {member.path: member for member in read_members(path) if _can_be_written(member.path)}
    entry, others = _entries_of(members)
    linked = read_linked_files(look_at(path))
    return "\n".join(_lines(path, _Draft(members, linked, entry, others))) + "\n"


def _entries_of(members: Mapping[str, Member]) -> tuple[str, tuple[str, ...]]:
    """The entry that the file calls its default, or else the first, and all others."""
    entries = [
        path for path, member in members.items() if member.nexus_class == "NXentry" and path.count("/") == 1
    ]
    default = f"/{members[''].attributes.get('default', '')}" if "" in members else ""
    chosen = default if default in entries else next(iter(entries), "/entry")
    return chosen, tuple(path for path in entries if path != chosen)


def _lines(path: Path, draft: _Draft) -> Iterator[str]:
    entry = draft.entry
    entries = _known_variables(draft, entry)
    _add_catalogue_variables(draft)
    operator = "dirname-2" if path.parent.name == _DATA_FOLDER else "dirname"
    draft.add(
        "source_folder", source="VALUE", value="<data_file_path>", operator=operator, value_type="string"
    )
    assignments = list(_high_level(draft))
    entries += _other_entries(draft, entry)
    proposals = list(_proposals(draft))
    instrument = draft.members.get(f"{draft.first_of_class('NXinstrument', entry)}/name")
    yield from _beginning(path, instrument.text if instrument else "")
    yield from _remarks(draft)
    yield from _files(draft)
    yield "variables:"
    for variable in draft.variables:
        if not variable.is_proposal:
            yield from _variable_lines(variable)
    yield _PROPOSALS
    for variable in draft.variables:
        if variable.is_proposal:
            yield from _commented_out(_variable_lines(variable))
    yield "schema:"
    yield from assignments
    yield "  # Scientific metadata: the entry's name, its name for people, and its value with the unit."
    for name, value_type in entries:
        yield from _entry_lines(name, value_type)
    yield _PROPOSALS
    yield from _commented_out(proposals)
    yield from _not_taken(draft)


def _beginning(path: Path, instrument: str) -> Iterator[str]:
    name = _one_line(" ".join(instrument.removesuffix("…").split())) or path.stem
    yield f"# A first schema, drafted from {_one_line(path.name)} by `scicat-dagster schema draft`."
    yield f"# Replace each {GAP} by a value or by the <name> of a variable, and remove what the catalogue"
    yield "# should not hold. `scicat-dagster validate CONFIG --against FILE` names what is left to do."
    yield f"id: {uuid.uuid4()}"
    yield f"name: {_quoted(name)}"
    yield f"instrument: {_quoted(name.casefold())}"
    yield "# Change this: which files it is for, by a part of the path that all files of the instrument have,"
    yield "# and no others, such as filename:contains:/lrmecs/."
    yield f"selector: {_quoted(_selector(path, name))}"
    yield "# Of several schemas that match a file, the one with the lowest order is used."
    yield "order: 100"


def _remarks(draft: _Draft) -> Iterator[str]:
    """How single precision is read, which entries the schema is not about, and whether they say the same."""
    if any(draft.members[path].type in _SINGLE_PRECISION for path in draft.taken):
        yield "# Numbers of single precision (float32) are read as text and become numbers in their fields:"
        yield "# 117.6 would be 117.5999984741211 otherwise."
    for other in draft.others:
        different = [
            path.removeprefix(f"{other}/")
            for path, member in draft.members.items()
            if path.startswith(f"{other}/") and not _is_the_same(member, draft, path, other)
        ]
        shown = ", ".join(different[:_MOST_DIFFERENT]) + (", …" if len(different) > _MOST_DIFFERENT else "")
        what = f"other values or shapes: {shown}" if different else "the same single values and shapes"
        yield f"# Not drafted: the entry {_one_line(other)}. Compared with {_one_line(draft.entry)} it has"
        yield f"#   {_one_line(what)}"
    if draft.others:
        yield "# For a dataset of each entry:"
        yield f"#   write <entry> for {_one_line(draft.entry[1:])} in paths, and uncomment the next line."
        yield '# entries: "*"'


def _files(draft: _Draft) -> Iterator[str]:
    """What lists the other files that the file refers to."""
    if draft.linked:
        more = ", …" if len(draft.linked) > _MOST_DIFFERENT else ""
        shown = ", ".join(map(_one_line, draft.linked[:_MOST_DIFFERENT]))
        yield f"# The file refers to other files, which the dataset lists: {shown}{more}"
        yield "files:"
        yield "  linked: true"


def _is_the_same(member: Member, draft: _Draft, path: str, other: str) -> bool:
    twin = draft.members.get(draft.entry + path.removeprefix(other))
    return twin is not None and (twin.text, twin.shape, twin.type) == (member.text, member.shape, member.type)


def _selector(path: Path, instrument: str) -> str:
    for folder in path.parent.parts[1:]:
        if folder.casefold() == instrument.casefold():
            return f"filename:contains:/{folder}/"
    return f"filename:starts_with:{path.parent.as_posix().rstrip('/')}/"


def _known_variables(draft: _Draft, entry: str) -> list[tuple[str, str]]:
    """Define what NeXus has a place for; the answer are those that become entries, with their types."""
    entries = []
    for name, places, value_type in _ENTRY_FIELDS:
        path = next((f"{entry}/{place}" for place in places if draft.single(f"{entry}/{place}")), "")
        if path:
            is_date = value_type == "date" and _is_date(draft.members[path].text)
            draft.read(name, path, value_type if value_type != "date" or is_date else "string")
            # All others are fields of the dataset.
            if name == "job_id" or (value_type == "date" and not is_date):
                entries.append((name, "string"))
    for name, group in (("instrument_name", "NXinstrument"), ("sample_name", "NXsample")):
        path = f"{draft.first_of_class(group, entry)}/name"
        if draft.single(path):
            draft.read(name, path, "string")
            if name != "instrument_name":
                entries.append((name, "string"))
    if users := _users(draft, entry):
        about = "every NXuser"
        draft.add("team_members", about, source="NXS", path=f"{users}/name", value_type="string[]")
        entries.append(("team_members", "string[]"))
    return entries


def _users(draft: _Draft, entry: str) -> str:
    """A path for all users of an entry; empty where there are none with names."""
    names = [
        path.rpartition("/")[2]
        for path, member in draft.members.items()
        if member.nexus_class == "NXuser" and path.rpartition("/")[0] == entry
        if draft.single(f"{path}/name")
    ]
    if len(names) == 1:
        return f"{entry}/{names[0]}"
    all_begin_so = bool(names) and all(name.startswith("user") for name in names)
    return f"{entry}/^user.*" if all_begin_so else ""


def _add_catalogue_variables(draft: _Draft) -> None:
    if draft.has("proposal_id"):
        for name in ("pi_firstname", "pi_lastname", "pi_email"):
            draft.add(name, source="SC", url="proposals/<proposal_id>", field=name, value_type="string")
    if draft.has("instrument_name"):
        wanted = '{"where":{"name":{"ilike":"<instrument_name>"}}}'
        draft.add("instrument_filter", source="VALUE", value=wanted, operator="urlsafe", value_type="string")
        url = "instruments?filter=<instrument_filter>"
        draft.add("instruments_data", source="SC", url=url, field="", value_type="list")
        for name, value, key, value_type in (
            ("instrument_data", "<instruments_data>", "0", "dict"),
            ("instrument_id", "<instrument_data>", "pid", "string"),
        ):
            draft.add(name, source="VALUE", value=value, operator="getitem", field=key, value_type=value_type)


def _high_level(draft: _Draft) -> Iterator[str]:
    """The fields of the dataset, the mandatory and recommended ones with what they are."""
    yield from _field_lines("type", "raw")
    for name in (*MANDATORY, *RECOMMENDED):
        importance = "Mandatory" if name in MANDATORY else "Recommended"
        value = _value_of(name, draft)
        if value is None:
            yield from _comment(f"{importance}, and not in the file: {name}. {WHERE_FROM[name]}")
            continue
        yield from _comment(f"{importance}. {WHERE_FROM[name]}")
        yield from _field_lines(name, value)
    if not draft.has("job_id"):
        yield from _comment(f"Recommended, and not in the file: scientificMetadata.job_id. {IDENTIFIER}")
    for name, variable in _DATE_FIELDS:
        if draft.has(variable) and _reads_date(draft, variable):
            yield from _field_lines(name, f"<{variable}>")
    if draft.has("run_number"):
        yield from _field_lines("runNumber", "<run_number>")


def _value_of(name: str, draft: _Draft) -> str | None:
    """What a field is assigned; a gap for a mandatory one that is not known, None for another."""
    candidates = {
        "owner": (("pi_lastname", "<pi_firstname> <pi_lastname>"),),
        "principalInvestigator": (("pi_lastname", "<pi_firstname> <pi_lastname>"),),
        "contactEmail": (("pi_email", "<pi_email>"),),
        "sourceFolder": (("source_folder", "<source_folder>"),),
        "creationTime": (("end_time", "<end_time>"), ("start_time", "<start_time>")),
        "datasetName": (("title", "<title>"), ("source_folder", "<data_file_name>")),
        "description": (("description", "<description>"),),
        "proposalId": (("proposal_id", "<proposal_id>"),),
        "instrumentId": (("instrument_id", "<instrument_id>"),),
    }
    for variable, value in candidates.get(name, ()):
        if draft.has(variable) and (name != "creationTime" or _reads_date(draft, variable)):
            return value
    return GAP if name in MANDATORY else None


def _reads_date(draft: _Draft, variable: str) -> bool:
    return any(
        known.name == variable and known.definition["value_type"] == "date" for known in draft.variables
    )


def _other_entries(draft: _Draft, entry: str) -> list[tuple[str, str]]:
    """Define what else could be metadata: single values, short lists, and the means of logs."""
    instrument = draft.first_of_class("NXinstrument", entry) or entry
    paths = [
        path
        for path in draft.members
        if path not in draft.taken and not draft.is_of_another(path) and _is_metadata(path, draft)
    ]
    most_telling = set(sorted(paths, key=lambda path: _rank(path, draft))[:_MOST_ENTRIES])
    return [
        _entry_of(path, draft, _name_of(path.removeprefix(f"{instrument}/").removeprefix(f"{entry}/")))
        for path in paths
        if path in most_telling
    ]


def _rank(path: str, draft: _Draft) -> tuple[int, int]:
    """The lower, the sooner a person looks for it: what NeXus has a class for, and what lies less deep."""
    classes = [member.nexus_class for group in _groups_of(path) if (member := draft.members.get(group))]
    by_class = 2 if _SEVERAL_CLASSES.intersection(classes) else 0 if _TELLING_CLASSES & {*classes[:1]} else 1
    return by_class, path.count("/")


def _entry_of(path: str, draft: _Draft, name: str) -> tuple[str, str]:
    member = draft.members[path]
    if _is_log(path, draft):
        values = draft.read(name, path, "float[]")
        name = f"{name.removesuffix('_value').removesuffix('_log')}_mean"
        value = f"<{values}>"
        return draft.add(name, source="VALUE", value=value, operator="mean", value_type="float"), "float"
    value_type = _value_type(member)
    return draft.read(name, path, _read_as(member, value_type)), value_type


def _read_as(member: Member, value_type: str) -> str:
    # As text a number of single precision has the digits that were meant.
    return value_type.replace("float", "string") if member.type in _SINGLE_PRECISION else value_type


def _proposals(draft: _Draft) -> Iterator[str]:
    """Define what is often wanted and not read as it is; the lines are those of the fields."""
    for path, member in draft.members.items():
        if draft.is_of_another(path) or len(member.shape or ()) != 1 or not 1 < member.size <= _LONGEST_LOG:
            continue
        group = draft.members.get(path.rpartition("/")[0])
        what = (group.nexus_class if group else "", path.rpartition("/")[2])
        if what not in _COUNTED or member.type in {"string", ""}:
            continue
        operator, suffix = _COUNTED[what]
        name = _name_of(path.rpartition("/")[0].rpartition("/")[2])
        values = _values_of(path, draft, f"{name}_{what[1]}")
        kind = "integer" if operator == "length" or not member.type.startswith("float") else "float"
        made = draft.add(
            f"{name}_{suffix}", is_proposal=True,
            source="VALUE", value=f"<{values}>", operator=operator, value_type=kind,
        )  # fmt: skip
        yield from _entry_lines(made, kind)
    yield from _number_of_frames(draft)
    draft.add(
        "technique_names", "names of PaNET, such as neutron powder diffraction", is_proposal=True,
        source="VALUE", value=GAP, operator="panet", value_type="list",
    )  # fmt: skip
    yield "  techniques:"
    yield from _assignment("high_level", "techniques", "<technique_names>", "list")
    yield "  keywords:"
    yield from _assignment("high_level", "keywords", [GAP], "string[]")
    yield from _field_lines("dataFormat", "NeXus HDF5")


def _values_of(path: str, draft: _Draft, name: str) -> str:
    """The variable that reads a path already, or else a proposed one."""
    known = (
        each.name
        for each in draft.variables
        if each.definition.get("path") == path and not each.definition["value_type"].startswith("string")
    )
    return next(known, None) or draft.read(name, path, _value_type(draft.members[path]), is_proposal=True)


def _number_of_frames(draft: _Draft) -> Iterator[str]:
    """Define how many frames a stack of images has: as many as what was measured with each of them."""
    stacks = (
        (path, member.shape[0])
        for path, member in draft.members.items()
        if member.shape and len(member.shape) == _DIMENSIONS_OF_A_STACK and not draft.is_of_another(path)
    )
    stack, frames = next(stacks, ("", 0))
    beside = next((path for path in draft.members if _is_one_for_each(path, frames, stack, draft)), "")
    if not beside:
        return
    values = _values_of(beside, draft, "of_each_frame")
    made = draft.add(
        "frames", f"of {_one_line(stack)}, if its first dimension counts them", is_proposal=True,
        source="VALUE", value=f"<{values}>", operator="length", value_type="integer",
    )  # fmt: skip
    yield from _entry_lines(made, "integer")


def _is_one_for_each(path: str, frames: int, stack: str, draft: _Draft) -> bool:
    """Whether a dataset has one number for each frame, beside the stack or in a monitor."""
    member, folder = draft.members[path], path.rpartition("/")[0]
    group = draft.members.get(folder)
    is_near = folder == stack.rpartition("/")[0] or (group is not None and group.nexus_class == "NXmonitor")
    is_number = member.type not in {"string", ""}
    return (
        frames > 1 and member.shape == (frames,) and is_number and is_near and not draft.is_of_another(path)
    )


def _value_type(member: Member) -> str:
    if member.type == "string":
        one = "date" if member.size == 1 and _is_date(member.text) else "string"
    else:
        one = "float" if member.type.startswith("float") else "integer"
    return one if member.size == 1 else f"{one}[]"


def _is_metadata(path: str, draft: _Draft) -> bool:
    member = draft.members[path]
    if not member.type or not member.size or path.endswith("/depends_on"):
        return False
    groups = [draft.members.get(group) for group in _groups_of(path)]
    if any(group.nexus_class in _LEFT_OUT_CLASSES for group in groups if group):
        return False
    if groups and groups[0] and groups[0].nexus_class == "NXlog":
        return _is_log(path, draft)
    return member.size <= _LONGEST_LIST


def _is_log(path: str, draft: _Draft) -> bool:
    member, group = draft.members[path], draft.members.get(path.rpartition("/")[0])
    is_value = group is not None and group.nexus_class == "NXlog" and path.endswith("/value")
    return is_value and member.type != "string" and 0 < member.size <= _LONGEST_LOG


def _groups_of(path: str) -> Iterator[str]:
    """The groups that a path is in, the nearest first."""
    while "/" in path[1:]:
        path = path.rpartition("/")[0]
        yield path


def _not_taken(draft: _Draft) -> Iterator[str]:
    left = [
        line
        for path, member in draft.members.items()
        if not draft.is_of_another(path)
        for line in _not_taken_of(path, member, draft)
    ]
    if left:
        yield "# Not used, but in the file (what follows an @ is an attribute):"
    for line in left[:_MOST_LISTED]:
        yield f"#   {line}".rstrip()
    if len(left) > _MOST_LISTED:
        yield f"#   and {len(left) - _MOST_LISTED} more datasets and attributes"


def _not_taken_of(path: str, member: Member, draft: _Draft) -> Iterator[str]:
    if member.shape is not None and path not in draft.taken:
        yield f"{_one_line(path)}  {draft.about(path)}"
    for name, text in member.attributes.items():
        if name not in _NOT_LISTED:
            yield f"{_one_line(path or '/')}@{_one_line(name)}  {_one_line(text)}"


def _commented_out(lines: Iterable[str]) -> Iterator[str]:
    return (f"  # {line[2:]}" for line in lines)


def _variable_lines(variable: _Variable) -> Iterator[str]:
    yield f"  {variable.name}:" + (f"  # {variable.comment}" if variable.comment else "")
    for key, value in variable.definition.items():
        yield f"    {key}: {value if key == 'field' and value.isdigit() else _quoted(value)}"


def _comment(text: str) -> list[str]:
    return textwrap.wrap(text, 110, initial_indent="  # ", subsequent_indent="  # ", break_on_hyphens=False)


def _field_lines(name: str, value: str) -> Iterator[str]:
    kinds = {"contactEmail": "email", "creationTime": "date", "startTime": "date", "endTime": "date"}
    yield f"  {name}:"
    yield from _assignment("high_level", name, value, kinds.get(name, "string"))


def _entry_lines(name: str, value_type: str) -> Iterator[str]:
    yield f"  {name}_entry:"
    human_name = name.replace("_", " ").capitalize()
    yield from _assignment("scientific_metadata", name, f"<{name}>", value_type, human_name)


def _assignment(
    kind: str, name: str, value: str | list[str], value_type: str, human_name: str = ""
) -> Sequence[str]:
    lines = [f"    field_type: {kind}", f"    machine_name: {_quoted(name)}"]
    if human_name:
        lines.append(f"    human_name: {_quoted(human_name)}")
    shown = _quoted(value) if isinstance(value, str) else f"[{', '.join(map(_quoted, value))}]"
    return [*lines, f"    value: {shown}", f"    type: {value_type}"]


def _can_be_written(path: str) -> bool:
    """Whether a schema can name the path: a ``*`` in it would be a wildcard."""
    return path.isprintable() and "*" not in path


def _name_of(path: str) -> str:
    # YAML has no keys of more than 1024 characters.
    name = re.sub(r"\W+", "_", path).strip("_").lower()[-_LONGEST_NAME:]
    return name if name[:1].isalpha() else f"value_{name}"


def _is_date(text: str) -> bool:
    try:
        datetime.fromisoformat(text.strip())
    except ValueError:
        return False
    return "-" in text


def _one_line(text: str) -> str:
    """A text of the file for a comment, which ends at the end of the line."""
    return "".join(_ESCAPES.get(letter, letter if letter.isprintable() else " ") for letter in text)


_ESCAPES = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}

_PLAIN = re.compile(r"[A-Za-z/<][\w/<>.@=?-]*(?: [\w/<>.@-]+)*(?:\[\])?", re.ASCII)
_OTHER_TYPES = frozenset({"true", "false", "yes", "no", "on", "off", "null", "y", "n"})


def _quoted(text: str) -> str:
    """A text as YAML, of which JSON is a part."""
    if '"' in text and "'" not in text and text.isprintable():
        return f"'{text}'"
    is_plain = _PLAIN.fullmatch(text) and text.casefold() not in _OTHER_TYPES
    return text if is_plain else json.dumps(text, ensure_ascii=False)


def gaps_in(text: str) -> Iterable[int]:
    """The numbers of the lines of a draft on which a person has to write."""
    return (
        number
        for number, line in enumerate(text.splitlines(), 1)
        if GAP in line and not line.lstrip().startswith("#")
    )
