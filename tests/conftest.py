"""What every test may use: brokers, a database, examples, a small facility. Folders have their own, too."""

pytest_plugins = ["tests.brokers", "tests.databases", "tests.examples", "tests.small_facility"]
