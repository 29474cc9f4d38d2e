"""What every test may use: brokers, a database, examples, a small facility. A folder has its own."""

pytest_plugins = ["tests.brokers", "tests.databases", "tests.examples", "tests.small_facility"]
