"""Fan-out: one question to all shards of a model, answered as if they were one database."""

from dbpatterns.sharding.fanout.queryset import FanOut

__all__ = ["FanOut"]
