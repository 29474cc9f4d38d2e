"""What the process that runs are forked from loads, before the first run. Importing it is all that is done.

The forks then share Dagster, this package, a project's own module where the environment names one, and
versions of the configuration files that can be used.
"""

from contextlib import suppress

from scicat_dagster.errors import PermanentError
from scicat_dagster.instance.code_location import load_definitions
from scicat_dagster.isolation import start

# What cannot be used yet must not end the process that all runs are forked from: each run says why.
with suppress(PermanentError):
    load_definitions()

# All runs share it; each would otherwise load HDF5 anew.
start()
