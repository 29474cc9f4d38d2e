"""What every test may use: brokers, a database, examples, a small facility; one folder's own are there."""

pytest_plugins = ["tests.brokers", "tests.databases", "tests.examples", "tests.small_facility"]
