"""What every test may use: brokers, a database, examples, a small facility. Fixtures of one folder are there."""

pytest_plugins = ["tests.brokers", "tests.databases", "tests.examples", "tests.small_facility"]
