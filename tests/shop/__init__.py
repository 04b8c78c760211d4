"""A shop on the shards: what sharded models are tested with."""
