"""A bank: accounts on shards, a double-entry ledger and standing orders."""
