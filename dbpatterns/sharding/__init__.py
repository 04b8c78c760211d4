"""Sharding: rows placed on several databases by the hash of one key.

Install with "dbpatterns.sharding" in `INSTALLED_APPS`. This release has explicit placement
only, in `dbpatterns.sharding.router`; the slot map that can move data comes later.
"""
