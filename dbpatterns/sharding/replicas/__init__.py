"""Replica reads: a shard's replicas answer, and never with less than the work has seen."""

from dbpatterns.sharding.replicas.choosing import for_reading, primary_of, replica_reads

__all__ = ["for_reading", "primary_of", "replica_reads"]
