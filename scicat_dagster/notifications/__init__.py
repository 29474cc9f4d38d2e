"""Telling people what needs manual intervention, and programs what was registered."""
