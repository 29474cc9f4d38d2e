"""What differs between generations of SciCat, as far as the stand-in shows it. Nothing else belongs here.

Source: the recorded answers of a 4.5.0, a 5.2.1 and a development version of August 2026.
"""

from datetime import datetime
from enum import StrEnum


class Dialect(StrEnum):
    """A generation of SciCat."""

    V4X = "4.x"
    V5_2 = "5.2"
    V5_NEXT = "5.next"
    """What follows 5.2.1."""

    @property
    def reports_expired_tokens(self) -> bool:
        """Whether an expired token is a 401 on every route. Otherwise its sender is anonymous."""
        return self is not Dialect.V4X

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
        return self is not Dialect.V4X

    @property
    def encodes_metadata_names(self) -> bool:
        """Whether API v4 shows the names in scientific metadata as they are stored, percent-encoded."""
        return self is not Dialect.V4X

    @property
    def is_harmed_by_metadata(self) -> bool:
        """Whether some metadata is accepted and then ends the server. Later ones refuse it, or survive."""
        return self is Dialect.V4X

    @property
    def empty_list(self) -> list[None]:
        """What the lists of v4 hold in a dataset that v3 gave no such value."""
        return [] if self is Dialect.V4X else [None]

    @property
    def anonymous_refusal(self) -> str:
        """What API v4 says to an anonymous caller who asks for what is not published."""
        return "Forbidden resource" if self is Dialect.V4X else "Unauthorized access"

    @property
    def checks_file_metadata(self) -> bool:
        """Whether the files of a block may have metadata of their own, which by default must be empty."""
        return self is not Dialect.V4X

    def has_changed_since(self, updated_at: datetime | None, moment: datetime | None) -> bool:
        """Whether a change is refused because of its condition; the oldest takes a tie for a later change."""
        if updated_at is None or moment is None:
            return False
        return updated_at >= moment if self is Dialect.V4X else updated_at > moment

    @property
    def needs_sample_names(self) -> bool:
        """Whether a sample without a sampleName is refused."""
        return self is not Dialect.V4X

    @property
    def lists_blocks_to_anybody(self) -> bool:
        """Whether an anonymous caller's list of origdatablocks is answered, without those he may not see."""
        return self is Dialect.V5_NEXT
