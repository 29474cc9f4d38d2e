"""Checking a facility before anything is run with it.

``facility`` reads the configuration and all schemas, ``files`` goes the way of real files up to their
registration, ``live`` asks the servers that the configuration names; ``report`` is what they all write into.
Nothing here changes anything anywhere.
"""
