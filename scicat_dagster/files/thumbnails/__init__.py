"""From an untrusted file to a small picture of what it holds.

``nxdata`` finds what NeXus wants to be plotted and reads it within a budget, ``drawing`` turns it into a PNG;
both run in the child process. ``making`` asks for that from outside, and ``models`` is what travels.
"""
