"""What every test may use: brokers and a database. Fixtures of one folder only live in that folder."""

pytest_plugins = ["tests.brokers", "tests.databases"]
