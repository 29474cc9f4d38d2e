"""Work on untrusted input in a process of its own, with a limit on its time and on its memory.

libhdf5 can loop indefinitely or crash on a damaged file, and no Python code can interrupt it; a regular
expression can search for years. ``client`` asks, ``server`` is the warm process from which a child is forked
for each request, and ``limits`` are what a child may use. The only tasks are those that ``server`` names.
"""
