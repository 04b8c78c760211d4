#!/usr/bin/env python
"""Django's command line, for the demo project."""

import os
import sys


def main() -> None:
    """Run one management command with the demo's settings."""
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "demo.settings")
    from django.core.exceptions import ImproperlyConfigured
    from django.core.management import execute_from_command_line

    try:
        execute_from_command_line(sys.argv)
    except ImproperlyConfigured as error:
        sys.stderr.write(f"The settings are wrong: {error}\n")
        sys.exit(2)


if __name__ == "__main__":
    main()
