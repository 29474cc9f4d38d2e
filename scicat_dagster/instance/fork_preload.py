"""What the process that runs are forked from loads, before the first run. Importing it is all that is done.

The forks then share Dagster, this package, and a version of the configuration file that can be used.
"""

from contextlib import suppress

import scicat_dagster.definitions as definitions
from scicat_dagster.errors import PermanentError
from scicat_dagster.isolation import start

# A file that cannot be used yet must not end the process that all runs are forked from: each run says why.
with suppress(PermanentError):
    definitions.current_configuration()

# All runs share it; each would otherwise load HDF5 anew.
start()
