"""A stand-in for SciCat: a real HTTP server with the v3 API that the ingestor talks to, and pages to look at.

It answers like the backend that the recorded exchanges were made with, down to its oddities, and keeps its
documents in one SQLite file. It is made for the demo and for tests, not for data.
"""

from scicat_dagster.demo.catalogue.accounts import Account, Accounts, demo_accounts, recorded_accounts
from scicat_dagster.demo.catalogue.app import API_PREFIX, create_app
from scicat_dagster.demo.catalogue.content.dialects import Dialect
from scicat_dagster.demo.catalogue.server import CatalogueServer, serve
from scicat_dagster.demo.catalogue.store import AlreadyStoredError, Store

__all__ = [
    "API_PREFIX",
    "Account",
    "Accounts",
    "AlreadyStoredError",
    "CatalogueServer",
    "Dialect",
    "Store",
    "create_app",
    "demo_accounts",
    "recorded_accounts",
    "serve",
]
