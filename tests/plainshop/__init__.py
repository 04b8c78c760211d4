"""The shop once more, on one database."""
