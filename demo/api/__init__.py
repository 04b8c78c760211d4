"""The REST API of the blog and the bank."""
