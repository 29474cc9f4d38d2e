"""What every test may use: the brokers' fixtures. Fixtures of one folder only live in that folder."""

pytest_plugins = ["tests.brokers"]
