"""A client for the routes of SciCat's API that registration needs.

The login is ``session``'s; how each version of the API puts things is ``dialects``'. What to write, and in
which order, belongs to ``registration``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cached_property
from http import HTTPStatus
from typing import Any, Literal, TypeVar
from urllib.parse import quote, unquote, urlsplit

import requests
from pydantic import BaseModel, JsonValue, ValidationError

from scicat_dagster.config.models import version_of
from scicat_dagster.dataset.jobs import Job
from scicat_dagster.errors import IngestionError, Notice, PermanentError, TransientError
from scicat_dagster.scicat.dialects import DIALECTS, JSON, SCHEMA_LINK, Attachment, Body, Dialect
from scicat_dagster.scicat.errors import RefusedError, UnansweredError, server_text
from scicat_dagster.scicat.models import AttachmentRecord, DatasetRecord, JobRecord, OrigDatablockRecord
from scicat_dagster.scicat.queries import MOST_RECORDS, filter_text, parts_for_an_address
from scicat_dagster.scicat.session import ScicatSession, still_nobody

_PLACE = ("pid", "sourceFolder", "size", "numberOfFiles")
"""The fields of a dataset that say where its files are and how much they are."""


_Record = TypeVar("_Record", DatasetRecord, OrigDatablockRecord, JobRecord, AttachmentRecord)

Collection = Literal["datasets", "origdatablocks", "attachments", "jobs"]
"""Those of which there are two versions. Everything else is asked for by v3."""

COLLECTIONS: tuple[Collection, ...] = ("datasets", "origdatablocks", "attachments", "jobs")


@dataclass(frozen=True)
class Generation:
    """What a server has, as far as it matters here; a server tells nobody its version."""

    has_v4: bool
    is_since_4_28: bool

    def __str__(self) -> str:
        if self.is_since_4_28:
            return "4.28 or later, such as 5.x"
        return "4.x before 4.28" if self.has_v4 else "before 4.20, or one without API v4"


@dataclass(frozen=True)
class Route:
    """Where a collection is on this server, and how it is spoken to."""

    address: str
    dialect: Dialect


class ConflictError(PermanentError):
    """There is a dataset with this pid already."""


class ModifiedMeanwhileError(TransientError):
    """Somebody else changed the dataset after we had read it."""


def _climbs(url: str) -> bool:
    """Whether a part of the path is the folder above, however it is written."""
    return any(unquote(part) in {".", ".."} for part in re.split(r"[/\\]", urlsplit(url).path))


class ScicatClient(ScicatSession):
    """The routes of one SciCat server that registration needs, called with one login."""

    @cached_property
    def _routes(self) -> dict[Collection, Route]:
        return {}

    @cached_property
    def generation(self) -> Generation:
        """What the server has; it is asked once, as an anonymous caller.

        Raises
        ------
        TransientError
            The server could not answer.
        """
        if not self._settings.has_versions:
            return Generation(has_v4=False, is_since_4_28=False)
        return Generation(
            # The last of the four collections to come: from 4.12 to 4.19 there are some of them.
            has_v4=self._has_route("v4/origdatablocks?filter=%7B%22limits%22%3A%7B%22limit%22%3A1%7D%7D"),
            # They came with the same release.
            is_since_4_28=self._has_route("v4/metadatakeys"),
        )

    def _has_route(self, path: str) -> bool:
        doing = f"looking whether it has {path.partition('?')[0]}"
        response = self._request("GET", self._absolute(path), doing, None, "")
        if response.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise self._explained(response, doing)
        return response.status_code != HTTPStatus.NOT_FOUND

    def route(self, collection: Collection) -> Route:
        """Where a collection is, and how it is spoken to; the server may have to be asked once.

        Raises
        ------
        TransientError
            The server could not answer.
        """
        if collection not in self._routes:
            self._routes[collection] = self._chosen_route(collection)
        return self._routes[collection]

    def _chosen_route(self, collection: Collection) -> Route:
        path = getattr(self._settings.api_endpoints, collection)
        version = version_of(path) or self._settings.pinned_version or (4 if self.generation.has_v4 else 3)
        return Route(self._settings.address(path, version), DIALECTS[version]())

    def left_out(self, dataset: dict[str, JsonValue]) -> tuple[Notice, ...]:
        """What of a dataset the API in use has no place for."""
        return tuple(self._dialect_for(dataset).left_out(dataset))

    def held(self, dataset: Mapping[str, JsonValue]) -> Body:
        """A dataset without the fields that this server does not have."""
        unknown = self._dialect_for(dataset).unknown(dataset)
        return {name: value for name, value in dataset.items() if name not in unknown}

    def as_posted(self, dataset: dict[str, JsonValue]) -> Body:
        """The body that creates a dataset on this server."""
        return self._dialect_for(dataset).new_dataset(dataset)

    def _dialect_for(self, dataset: Mapping[str, JsonValue]) -> Dialect:
        dialect = self.route("datasets").dialect
        # Hardly any dataset has one of them, and for the others the server is not asked.
        is_newer = dataset.get("relationships") or dataset.get(SCHEMA_LINK)
        if is_newer and not self.generation.is_since_4_28:
            return replace(dialect, is_since_4_28=False)
        return dialect

    def dataset_page(self, pid: str) -> str:
        """The web page that shows a dataset to a person."""
        return f"{self._settings.frontend_url}/datasets/{quote(pid, safe='')}"

    def sample_page(self, identifier: str) -> str:
        """The web page that shows a sample to a person."""
        return f"{self._settings.frontend_url}/samples/{quote(identifier, safe='')}"

    def fetch(self, url: str) -> JsonValue:
        """The answer to a GET of ``url``, relative to the API's root or absolute.

        Where it begins with the name of a collection, this is where the configuration says that it is.

        Raises
        ------
        LookupError
            There is no such entry, or this account may not see it.
        TransientError
            The server could not answer.
        """
        doing = f"asking for {url}"
        if _climbs(url):
            raise LookupError(f"The address {url} leads out of its collection.")
        response = self._ask("GET", self._settings.api_endpoints.resolve(url), doing)
        if not response.ok:
            failure = self._explained(response, doing)
            # A 401 says nothing about the entry.
            if isinstance(failure, RefusedError) and response.status_code != HTTPStatus.UNAUTHORIZED:
                raise LookupError(failure.what)
            raise failure
        if not response.content:
            raise LookupError(f"SciCat answered nothing for {url}.")
        return self._json(response, doing)

    def create_dataset(self, body: dict[str, JsonValue]) -> DatasetRecord:
        """Create a dataset.

        Raises
        ------
        ConflictError
            Its pid is taken.
        RefusedError
            The server refuses it.
        TransientError
            The server could not answer; it may have created the dataset all the same.
        """
        doing = "creating the dataset"
        if refusal := self.route("datasets").dialect.refusal(body):
            raise RefusedError(refusal, remedy="Set scicat.api to v4, if the server has it.")
        response = self._ask("POST", self._datasets, doing, self.as_posted(body))
        if response.status_code == 409:
            raise ConflictError(server_text(response), remedy="Look at the dataset that has this pid.")
        return self._record(response, doing, DatasetRecord)

    def update_dataset(
        self, record: DatasetRecord, body: dict[str, JsonValue], *, unmodified_since: datetime | None
    ) -> DatasetRecord:
        """Replace the fields of a dataset that are in ``body``, each of them whole.

        ``record`` is the dataset that ``body`` was made from, and ``unmodified_since`` its ``updatedAt``.

        Raises
        ------
        ModifiedMeanwhileError
            Somebody else changed it since, so that nothing was done.
        RefusedError
            The server refuses the change.
        TransientError
            The server could not answer; it may have made the change all the same.
        """
        pid = record.pid
        doing = f"updating the dataset {pid}"
        change = self._dialect_for(body).change(body, record)
        condition = {} if change.content_type == JSON else {"Content-Type": change.content_type}
        if unmodified_since is not None:
            # The server compares milliseconds, and takes the very moment itself for a later change. A date in
            # the form of HTTP would have seconds only.
            moment = (unmodified_since + timedelta(milliseconds=1)).astimezone(UTC)
            text = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            condition["If-Unmodified-Since"] = text
        response = self._ask(
            "PATCH", f"{self._datasets}/{quote(pid, safe='')}", doing, change.body, condition
        )
        if response.status_code == 412:
            raise ModifiedMeanwhileError(
                f"The dataset {pid} was changed by somebody else.", remedy="Nothing to do: it is read again."
            )
        if response.status_code == 403:
            failure = self._explained(response, doing)
            if not isinstance(failure, RefusedError):
                raise failure
            raise RefusedError(
                failure.what,
                remedy="Make the ingestor's account a member of the dataset's owner group, or an "
                "administrator of SciCat: nobody else may change a dataset.",
                details=failure.details,
            )
        return self._record(response, doing, DatasetRecord)

    def create_origdatablock(self, body: dict[str, JsonValue]) -> OrigDatablockRecord:
        """Create an origdatablock. The server does not check whether there is one like it already.

        Raises as :meth:`create_dataset`; in particular after a 500 the block may be stored.
        """
        doing = "creating the origdatablock"
        response = self._ask("POST", self.route("origdatablocks").address, doing, body)
        return self._record(response, doing, OrigDatablockRecord)

    def dataset(self, pid: str) -> DatasetRecord | None:
        """The dataset with a pid; None where there is none.

        Raises
        ------
        RefusedError
            It exists and this account may not read it.
        TransientError
            The server could not answer.
        """
        doing = f"asking for the dataset {pid}"
        response = self._ask("GET", f"{self._datasets}/{quote(pid, safe='')}", doing)
        if _is_of_nothing(response):
            return None
        return self._record(response, doing, DatasetRecord)

    def datasets_with_metadata(self, key: str, value: JsonValue) -> list[DatasetRecord]:
        """The readable datasets whose scientific metadata has this value under a key."""
        where = {f"scientificMetadata.{key}.value": self._among([value])}
        doing = f"looking for datasets with {key} {value}"
        return self._records(self._datasets, filter_text(where), doing, DatasetRecord)

    def datasets_named(self, folder: str, name: str) -> list[DatasetRecord]:
        """The readable datasets of one source folder that have this name, a thousand at most."""
        where = {"sourceFolder": self._among([folder]), "datasetName": self._among([name])}
        doing = f"looking for datasets called {name} of {folder}"
        return self._records(self._datasets, filter_text(where), doing, DatasetRecord)

    def metadata_values(self, key: str, values: Sequence[str]) -> set[JsonValue]:
        """Those of the values that a readable dataset has under a key of its scientific metadata."""
        doing = f"looking for datasets by {key}"
        known: set[JsonValue] = set()
        for part in parts_for_an_address(values):
            where = {f"scientificMetadata.{key}.value": self._among(part)}
            for record in self._pages(self._datasets, where, doing, DatasetRecord):
                known.add(record.metadata_value(key))
        return known

    def origdatablocks(self, pid: str) -> list[OrigDatablockRecord]:
        """The origdatablocks of a dataset."""
        doing = f"asking for the origdatablocks of {pid}"
        endpoint = self.route("origdatablocks").address
        return self._records(endpoint, filter_text({"datasetId": pid}), doing, OrigDatablockRecord)

    def datasets_from(self, folders: Sequence[str]) -> Iterator[DatasetRecord]:
        """The readable datasets that have one of these source folders, of each the fields of ``_PLACE``."""
        return self._datasets_with("sourceFolder", folders, "looking for the datasets of some folders")

    def datasets_called(self, pids: Sequence[str]) -> Iterator[DatasetRecord]:
        """The readable datasets that have one of these pids, of each the fields of ``_PLACE``."""
        return self._datasets_with("pid", pids, "looking for datasets by their pids")

    def origdatablocks_of(self, pids: Sequence[str]) -> Iterator[OrigDatablockRecord]:
        """The origdatablocks of several datasets.

        They are asked for together where the server can do that. The route is not as tolerant as the one of
        datasets (it knows no `inq`, and the recorded answers hold single datasets only), so that datasets
        without a block in the answer are asked for one by one, in the way that every server knows.
        """
        if len(pids) == 1:
            # One request, where a list of several takes two: an empty one says nothing by itself.
            yield from self.origdatablocks(pids[0])
            return
        doing = "asking for the origdatablocks of some datasets"
        endpoint = self.route("origdatablocks").address
        for part in parts_for_an_address(pids):
            answered = set()
            try:
                for block in self._pages(endpoint, {"datasetId": {"$in": part}}, doing, OrigDatablockRecord):
                    answered.add(block.datasetId)
                    yield block
            except UnansweredError:
                # It is the network, and asking more often does not help.
                raise
            except IngestionError:
                pass
            for pid in part:
                if pid not in answered:
                    yield from self.origdatablocks(pid)

    def delete_origdatablock(self, identifier: str) -> None:
        """Remove an origdatablock. Many servers let nobody do this, or do not know it: RefusedError."""
        doing = f"removing the origdatablock {identifier}"
        endpoint = self.route("origdatablocks").address
        response = self._ask("DELETE", f"{endpoint}/{quote(identifier, safe='')}", doing)
        if not response.ok:
            raise self._explained(response, doing)

    def jobs_like(self, job: Job, place: Sequence[str], value: str) -> list[JobRecord]:
        """The jobs of the same type with a value at a place of their jobParams, all this account may see.

        Raises
        ------
        TransientError
            The server could not answer.
        """
        doing = f"looking for jobs of type {job.type}"
        route = self.route("jobs")
        response = self._ask("GET", f"{route.address}{route.dialect.jobs_like(job, place, value)}", doing)
        found = self._listed(response, doing, JobRecord)
        params = [route.dialect.job_params(record.model_dump(mode="json")) for record in found]
        return [
            record.model_copy(update={"jobParams": each}) for record, each in zip(found, params, strict=True)
        ]

    def create_job(self, job: Job) -> JobRecord:
        """Post a job. The server does not check whether there is one like it already.

        Raises
        ------
        RefusedError
            The server refuses it.
        TransientError
            The server could not answer; it may have created the job all the same.
        """
        doing = f"posting the job {job.type}"
        route = self.route("jobs")
        response = self._ask("POST", route.address, doing, route.dialect.new_job(job))
        return self._record(response, doing, JobRecord)

    def attachments(self, pid: str) -> list[AttachmentRecord]:
        """The attachments of a dataset, with their pictures."""
        doing = f"asking for the attachments of {pid}"
        address, where = self._attachments_of(pid)
        query = f"?filter={quote(filter_text(where))}" if where else ""
        response = self._ask("GET", f"{address}{query}", doing)
        return self._listed(response, doing, AttachmentRecord)

    def create_attachment(self, attachment: Attachment) -> AttachmentRecord:
        """Attach a picture to a dataset. The server does not check whether there is one like it already.

        Raises as :meth:`create_job`.
        """
        doing = f"attaching a picture to {attachment.dataset}"
        body = self.route("attachments").dialect.new_attachment(attachment)
        response = self._ask("POST", self._attachments_of(attachment.dataset)[0], doing, body)
        return self._record(response, doing, AttachmentRecord)

    def replace_attachment(self, identifier: str, attachment: Attachment) -> AttachmentRecord:
        """Give a dataset another picture and caption in the place of those of one of its attachments.

        By v3 the old one is deleted first, so that there are never two. Raises as :meth:`create_job`.
        """
        doing = f"replacing a picture of {attachment.dataset}"
        body = self.route("attachments").dialect.changed_attachment(attachment)
        address = f"{self._attachments_of(attachment.dataset)[0]}/{quote(identifier, safe='')}"
        if body is not None:
            return self._record(self._ask("PATCH", address, doing, body), doing, AttachmentRecord)
        self._ask("DELETE", address, doing)
        if identifier in {left.id for left in self.attachments(attachment.dataset)}:
            raise RefusedError(
                f"SciCat did not delete the picture {identifier} of {attachment.dataset}: it stays.",
                remedy="Servers before 4.15 delete no attachment: update SciCat, or leave the picture.",
            )
        return self.create_attachment(attachment)

    @property
    def gives_attachments_ids(self) -> bool:
        """Whether the server takes the id that an attachment is given, and refuses it to a second one.

        Raises
        ------
        TransientError
            The server could not answer.
        """
        return self.route("attachments").dialect.version >= 4

    def _attachments_of(self, pid: str) -> tuple[str, Body | None]:
        route = self.route("attachments")
        # In v3 they are below the dataset, whose own collection may be another version's.
        below = self._settings.address(self._settings.api_endpoints.datasets, route.dialect.version)
        return route.dialect.attachments_of(pid, (below, route.address))

    def samples_of_proposal(self, proposal_id: str) -> list[dict[str, Any]]:
        """The samples of a proposal, as the catalogue has them."""
        # This route hands the filter to the database, which knows no `inq`, and turns nothing into a date.
        where = {"proposalId": proposal_id}
        url = f"{self._settings.api_endpoints.samples}?filter={quote(filter_text(where))}"
        answer = self.fetch(url)
        return [sample for sample in answer if isinstance(sample, dict)] if isinstance(answer, list) else []

    def has_sample(self, identifier: str) -> bool:
        """Whether there is a sample with an id, also one that this account may not read.

        Raises
        ------
        TransientError
            The server could not answer.
        """
        doing = f"asking for the sample {identifier}"
        url = f"{self._settings.api_endpoints.samples}/{quote(identifier, safe='')}"
        response = self._ask("GET", url, doing)
        if response.ok or _is_of_nothing(response):
            return not _is_of_nothing(response)
        failure = self._explained(response, doing)
        # To an account that it knows, the server says 404 of what is not there.
        if isinstance(failure, RefusedError) and response.status_code == HTTPStatus.FORBIDDEN:
            return True
        raise failure

    def create_sample(self, body: Body) -> None:
        """Create a sample. The server answers 500 where its id is taken.

        Raises as :meth:`create_job`, and PermanentError where the server's samples have no proposal.
        """
        doing = "creating the sample"
        endpoint = self._settings.api_endpoints.samples
        response = self._ask("POST", endpoint, doing, body)
        # Mandatory since 5.2; up to 5.1 unknown, and refused by its name.
        if response.status_code == HTTPStatus.BAD_REQUEST and "sampleName" in server_text(response):
            older = {name: value for name, value in body.items() if name != "sampleName"}
            response = self._ask("POST", endpoint, doing, older)
        if response.status_code == HTTPStatus.BAD_REQUEST and "property proposalId" in server_text(response):
            # No right would help.
            raise PermanentError(
                f"A sample has no proposal in this SciCat, which refuses it when {doing}.",
                remedy="Servers before 4.15 have no proposalId in samples: set ingestion.samples to false.",
            )
        if not response.ok:
            raise self._explained(response, doing)

    def _datasets_with(self, field: str, values: Sequence[str], doing: str) -> Iterator[DatasetRecord]:
        for part in parts_for_an_address(values):
            where = {field: self._among(part)}
            yield from self._pages(self._datasets, where, doing, DatasetRecord, fields=_PLACE)

    def _pages(
        self,
        endpoint: str,
        where: dict[str, Any],
        doing: str,
        kind: type[_Record],
        fields: Sequence[str] = (),
    ) -> Iterator[_Record]:
        """All matching entries, page by page.

        An anonymous caller would be shown the published ones, and take the others for absent: each page
        counts only when the server knows us.
        """
        seen: set[str] = set()
        while True:
            query = filter_text(where, fields=fields, skip=len(seen))
            page = self._records(endpoint, query, doing, kind)
            if self.whoami() is None:
                self._log_in_anew()
                if self.whoami() is None:
                    raise still_nobody(doing)
                page = self._records(endpoint, query, doing, kind)
            new = {_key(record): record for record in page if _key(record) not in seen}
            yield from new.values()
            seen.update(new)
            # Also where a server does not heed `skip` and answers with the same page indefinitely.
            if len(page) < MOST_RECORDS or not new:
                return

    @property
    def _datasets(self) -> str:
        return self.route("datasets").address

    def _among(self, values: Sequence[Any]) -> JsonValue:
        return self.route("datasets").dialect.among(values)

    def _record(self, response: requests.Response, doing: str, kind: type[_Record]) -> _Record:
        if not response.ok:
            raise self._explained(response, doing)
        return self._parsed(self._json(response, doing), doing, kind)

    def _records(self, endpoint: str, query: str, doing: str, kind: type[_Record]) -> list[_Record]:
        response = self._ask("GET", f"{endpoint}?filter={quote(query)}", doing)
        return self._listed(response, doing, kind)

    def _listed(self, response: requests.Response, doing: str, kind: type[_Record]) -> list[_Record]:
        if not response.ok:
            raise self._explained(response, doing)
        answer = self._json(response, doing)
        if not isinstance(answer, list):
            raise _unexpected(doing)
        return [self._parsed(item, doing, kind) for item in answer]

    def _parsed(self, answer: JsonValue, doing: str, kind: type[_Record]) -> _Record:
        read = self.route("datasets").dialect.read_dataset(answer) if kind is DatasetRecord else answer
        try:
            return kind.model_validate(read)
        except ValidationError:
            raise _unexpected(doing) from None


def _is_of_nothing(response: requests.Response) -> bool:
    """Whether it says that there is no such entry: by 404, or up to 4.7 by an answer without a body."""
    return response.status_code == HTTPStatus.NOT_FOUND or (response.ok and not response.content)


def _unexpected(doing: str) -> UnansweredError:
    return UnansweredError(
        f"SciCat's answer is not what its API promises when {doing}.",
        remedy="See that scicat.host is the API's address and that its version is supported.",
    )


def _key(record: BaseModel) -> str:
    return str(record.pid if isinstance(record, DatasetRecord) else getattr(record, "id", ""))
