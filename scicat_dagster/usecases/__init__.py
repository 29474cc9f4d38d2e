"""Beside ingestion: previewing a file, discovering files, reingesting, judging the quality of datasets."""
