"""Database patterns for Django, each taken on its own.

Importing a pattern needs nothing; installing it adds its checks, commands and tables,
and only its own. Django imports this module before any model exists, so it holds the
version and nothing else.
"""

__version__ = "0.1.0"
