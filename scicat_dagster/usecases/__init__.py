"""Beside ingestion: preview, discovery, reingesting, quality, and drafting and testing schemas."""
