"""The labels of the definitions, by which the UI's lists can be searched: whose they are."""

OWNERS = ["team:data-catalogue"]
"""A facility may name itself here: ``team:...`` or an e-mail address."""
