"""Reading from many shards at once: sent to all, then read as they answer, within a deadline."""
