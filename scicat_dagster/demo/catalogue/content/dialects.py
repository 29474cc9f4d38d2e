"""What differs between generations of SciCat, as far as the stand-in shows it. Nothing else belongs here.

Source: the recorded answers of a server between 4.27 and 4.28, a 5.2.1 and a development version of August
2026; what 4.5 does otherwise was tried with release 4.5.0.
"""

from datetime import datetime
from enum import StrEnum


class Dialect(StrEnum):
    """A generation of SciCat."""

    V4_5 = "4.5"
    """Has no API v4, and differs from later 4.x by v3."""
    V4X = "4.x"
    V5_2 = "5.2"
    V5_NEXT = "5.next"
    """What follows 5.2.1."""

    @property
    def is_4(self) -> bool:
        """Whether it is one of the generations before 5."""
        return self in {Dialect.V4_5, Dialect.V4X}

    @property
    def has_v4(self) -> bool:
        """Whether there is an API v4."""
        return self is not Dialect.V4_5

    @property
    def says_nothing_of_the_missing(self) -> bool:
        """Whether it answers 200 without a body, not 404, about an entry that is not there (up to 4.7)."""
        return self is Dialect.V4_5

    @property
    def heeds_conditions(self) -> bool:
        """Whether a change has a condition (since 4.27)."""
        return self is not Dialect.V4_5

    @property
    def loses_numbers_in_lists(self) -> bool:
        """Whether what is not a text in a list of a filter is lost (up to 4.16 at least)."""
        return self is Dialect.V4_5

    @property
    def deletes_attachments(self) -> bool:
        """Whether a DELETE of an attachment does so (since 4.15), and not only says so."""
        return self is not Dialect.V4_5

    @property
    def lists_jobs(self) -> bool:
        """Whether anybody may list jobs (since 4.14)."""
        return self is not Dialect.V4_5

    @property
    def knows_proposals_of_samples(self) -> bool:
        """Whether a sample has a proposalId (since 4.15)."""
        return self is not Dialect.V4_5

    @property
    def names_investigators_of_derived(self) -> bool:
        """Whether a derived dataset has a principalInvestigator beside its investigator."""
        return self is not Dialect.V4_5

    @property
    def reports_expired_tokens(self) -> bool:
        """Whether an expired token is a 401 on every route. Otherwise its sender is anonymous."""
        return not self.is_4

    @property
    def adds_blocks_to_sums(self) -> bool:
        """Whether a block is added to the size and number of files that a dataset was posted with. Otherwise
        both are computed anew from all blocks.
        """
        return self is Dialect.V5_NEXT

    @property
    def resets_sums(self) -> bool:
        """Whether a change by API v4 sets size and number of files to 0 where it does not name them."""
        return self is not Dialect.V5_NEXT

    @property
    def has_new_relationships(self) -> bool:
        """Whether relationships have identifiers and types (since 4.28), and not a pid only."""
        return not self.is_4

    @property
    def encodes_metadata_names(self) -> bool:
        """Whether API v4 shows the names in scientific metadata as they are stored, percent-encoded."""
        return not self.is_4

    @property
    def is_harmed_by_metadata(self) -> bool:
        """Whether some metadata is accepted and then ends the server. Later ones refuse it, or survive."""
        return self.is_4

    @property
    def empty_list(self) -> list[None]:
        """What the lists of v4 hold in a dataset that v3 gave no such value."""
        return [] if self.is_4 else [None]

    @property
    def anonymous_refusal(self) -> str:
        """What API v4 says to an anonymous caller who asks for what is not published."""
        return "Forbidden resource" if self.is_4 else "Unauthorized access"

    @property
    def checks_file_metadata(self) -> bool:
        """Whether the files of a block may have metadata of their own, which by default must be empty."""
        return not self.is_4

    def has_changed_since(self, updated_at: datetime | None, moment: datetime | None) -> bool:
        """Whether a change is refused because of its condition; the oldest takes a tie for a later change."""
        if updated_at is None or moment is None:
            return False
        return updated_at >= moment if self.is_4 else updated_at > moment

    @property
    def needs_sample_names(self) -> bool:
        """Whether a sample without a sampleName is refused."""
        return not self.is_4

    @property
    def lists_blocks_to_anybody(self) -> bool:
        """Whether an anonymous caller's list of origdatablocks is answered, without those he may not see."""
        return self is Dialect.V5_NEXT
