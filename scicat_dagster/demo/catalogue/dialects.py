"""What differs between generations of SciCat, as far as the stand-in shows it. Nothing else belongs here.

Source: the recorded answers of a 4.5.0, a 5.2.1 and a development version of August 2026.
"""

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
    def lists_blocks_to_anybody(self) -> bool:
        """Whether an anonymous caller's list of origdatablocks is answered, without those he may not see."""
        return self is Dialect.V5_NEXT
