"""Models that only the tests need, without migrations."""
