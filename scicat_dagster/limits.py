"""How much is taken of what comes from outside, and why. Who applies one imports it."""

DEEPEST_JSON = 100
"""Levels of a message's metadata. pydantic reads back 200, and writes 255, from which nothing can be read."""

LONGEST_PATH_BYTES = 1000
"""Of a file's path, which is a partition key: PostgreSQL's indexes take 2,700 bytes, of all columns."""

LONGEST_NAME_BYTES = 255
"""Of a part of a path: what file systems take."""

LONGEST_TEXT = 2000
"""Characters of a reason, a remedy or a quoted text: each is kept in Dagster's database, several times."""

LONGEST_JOB_ID = 200
"""Characters of the id of a file writer's job."""

LONGEST_TAG = 200
"""Characters of a run's tag: it is indexed, and people read it in a list."""


def tag_value(text: str) -> str:
    """A text of a message or file as the value of a run's tag.

    PostgreSQL takes no NUL, and its index no long value; Dagster stores the tag before it finds out, and
    copies it to each retry of the run.
    """
    printable = "".join(
        character if character.isprintable() else " " for character in text.partition("\0")[0]
    )
    return printable.strip()[:LONGEST_TAG].rstrip()


LARGEST_METADATA_BYTES = 256 * 1024
"""Of a message's metadata: more than any file writer sends; it travels in the run's configuration."""

LARGEST_ANNOUNCEMENT_BYTES = LARGEST_METADATA_BYTES
"""Of the body of a POST: whoever has more to say says it in the file."""

LARGEST_KEPT_BYTES = 64 * 1024
"""Of a rejected message's value: enough to see what it is. The rest is still in Kafka, by its position."""

LARGEST_TICK_BYTES = 20_000_000
"""Of the answer of one tick: the code server's connection takes 100 MB, in another encoding."""
