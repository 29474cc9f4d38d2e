"""A whole facility on one laptop: broker, file writer, SciCat stand-in, and what they know of each other.

Everything here serves demonstrations and tests, listens on the loopback interface only, and is imported by
nothing of the domain or the orchestration.
"""
