"""The settings that the type checker reads: the demo's, which install every sub-app it checks."""

from demo.settings import *  # noqa: F403
