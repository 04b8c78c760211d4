"""Numbers over many shards: counts, aggregates and groups, merged from each shard's parts."""
