"""Files that nobody announces any more: comparing disk and catalogue, requests, backfills, deferred files."""
