"""A sharded app whose ids carry their slot."""
