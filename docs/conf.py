"""Sphinx: `make docs`. No network; DOCS_INTERSPHINX=1 links names to Django's and Python's."""

import os

import django
from django.conf import settings

from dbpatterns import __version__

# Abstract models are imported, and documented, without a database.
settings.configure(
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "dbpatterns.eventstore",
        "dbpatterns.idempotency",
        "dbpatterns.ledger",
        "dbpatterns.sharding",
    ]
)
django.setup()

project = "django-dbpatterns"
author = "The django-dbpatterns developers"
copyright = f"2026, {author}"  # Sphinx's own name for it
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
if os.environ.get("DOCS_INTERSPHINX") == "1":
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "python": ("https://docs.python.org/3", None),
        "django": ("https://docs.djangoproject.com/en/stable", None),
    }

exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"django-dbpatterns {release}"
myst_heading_anchors = 3
smartquotes_action = "qe"  # quotes and ellipses; an option keeps its two dashes


def separate_sections(app, what, name, obj, options, lines):
    """Give `Returns: …` and `Raises: …` of our docstrings a paragraph each."""
    inside, found = False, []
    for line in lines:
        if line.startswith(("Returns: ", "Raises: ")):
            inside = True
            found.append("")
        elif not line.startswith(" "):
            inside = False
        found.append(line.strip() if inside else line)
    lines[:] = found


def setup(app):
    """Called by Sphinx; before napoleon, which reads `Args:`."""
    app.connect("autodoc-process-docstring", separate_sections, priority=400)


autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
# Only our own names must resolve: the inventories of the others are not read by default.
nitpick_ignore_regex = [
    (r"py:.*", r"(?!dbpatterns).*"),
    (r"py:.*", r"dbpatterns\..*\.(?:[A-Z]{1,2}|_\w+)"),  # type variables, and private names
]
