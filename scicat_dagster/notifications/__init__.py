"""Telling people what needs manual intervention: the message, and the channels that carry it."""
