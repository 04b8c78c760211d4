"""Which files are the user's, and which frames of libraries say more than their line.

A loop of a library over *fields* (two columns of the admin, two fields of a serializer, two nodes
of a template) is no loop over rows: such frames add the field to the key of the stack.
A page of Jinja2 is compiled to Python under the template's own name: it is a template, no code.
"""

import os
import sysconfig
from collections.abc import Callable, Hashable, Mapping, Sequence
from functools import lru_cache
from types import FrameType
from typing import Any, Final, NamedTuple

import django
from django.db.models import Model

import dbpatterns

__all__ = [
    "FOLLOWS",
    "OWN",
    "PINNED",
    "READS",
    "SILENT",
    "Asked",
    "Role",
    "is_users",
    "roles_of",
    "tail_of",
]

Role = str | Callable[[FrameType], Hashable]

SILENT: Final = "silent"
"""Asks row by row for good reasons, also through what it calls: migrations, factories, set-up."""
OWN: Final = "own"
"""Asks row by row itself, and nobody can change it; what it calls back is not excused."""
READS: Final = "reads"
"""Writes, and reads what it needs for that: the write is the finding."""
PINNED: Final = "pinned"
"""An exception below would mark the surrounding transaction as broken."""
FOLLOWS: Final = "follows"
"""Goes with another query, which is the finding if there is one: a queryset's own prefetch."""


class Asked(NamedTuple):
    """A detail, and who asks: rows of one author send one statement with one value."""

    detail: tuple[str, ...]
    who: Hashable


def _descriptor(frame: FrameType) -> Hashable:
    names = frame.f_locals
    descriptor = names["self"]  # a generic key is its own before Django 6.1
    field = getattr(descriptor, "field", None) or getattr(descriptor, "related", descriptor)
    return Asked(("field", getattr(field, "name", "")), names["instance"].pk)


def _node(frame: FrameType) -> Hashable:
    node = frame.f_locals["self"]
    origin, token = getattr(node, "origin", None), getattr(node, "token", None)
    if origin is None or token is None:  # made by hand, without a template
        return None
    return ("template", origin.name, token.lineno, token.contents)


def _lookup(frame: FrameType) -> Hashable:
    names = frame.f_locals
    lookups = names["self"].lookups
    root = names["context"].get(lookups[0])
    return _step(root, lookups[1:], names.get("current"))


def _source(frame: FrameType) -> Hashable:
    names, outer = frame.f_locals, frame.f_back
    if "attrs" not in names or outer is None:  # the method that calls the function of this name
        return None
    return _step(outer.f_locals.get("instance"), names["attrs"], names["instance"])


def _step(root: Any, names: Sequence[str], reached: object) -> Hashable:
    """Return how far along a path like `leaf.parent.parent` an object is; None if it is plain."""
    if len(set(names)) == len(names):
        return None
    taken = 0
    for name in names:
        fields: Any = type(root)._meta.get_fields() if isinstance(root, Model) else ()
        field: Any = next((each for each in fields if each.name == name), None)
        if root is reached or not hasattr(field, "is_cached") or not field.is_cached(root):
            break
        root = field.get_cached_value(root)
        taken += 1
    return ("step", taken)


def _jinja(frame: FrameType) -> Hashable:
    page = frame.f_globals["__jinja_template__"]
    name = frame.f_code.co_filename  # "<template>" when it was read from no file
    name = page.name if name.startswith("<") and page.name else name
    return ("template", name, _line_of(page, frame.f_lineno), "")


@lru_cache(maxsize=1024)
def _line_of(page: Any, line: int) -> int:
    return int(page.get_corresponding_lineno(line))


def _bound_field(frame: FrameType) -> Hashable:
    field = frame.f_locals["self"]
    return Asked(("form", field.name), field.html_name)


def _serializer_field(frame: FrameType) -> Hashable:
    names = frame.f_locals
    if "field" not in names:
        return None
    return ("serializer", type(names["self"]).__name__, names["field"].field_name)


def _prefetch(frame: FrameType) -> Hashable:
    names = frame.f_locals
    return ("prefetch", names["prefetch_to"]) if "prefetch_to" in names else None


def _named(name: str) -> Role:
    def named(frame: FrameType) -> Hashable:
        value = frame.f_locals.get(name)
        return ("name", str(getattr(value, "name", value)))

    return named


# By the end of the path and by function, "*" for every function; a callable's answer joins the
# key. Names of locals are Django's own affair, so each is looked up with care and has a test.
_ROLES: Mapping[str, Mapping[str, Role]] = {
    "django/contrib/admin/options.py": {"log_change": OWN, "save_model": OWN},
    "django/contrib/admin/templatetags/admin_list.py": {"items_for_result": _named("field_name")},
    "django/contrib/contenttypes/fields.py": {"__get__": _descriptor},
    "django/contrib/contenttypes/models.py": {
        "get_by_natural_key": OWN,
        "get_for_id": OWN,
        "get_for_model": OWN,
        "get_for_models": OWN,
    },
    "django/core/management/commands/runserver.py": {},  # what runs below these is the project
    "django/core/management/commands/shell.py": {},
    "django/core/management/commands/test.py": {},
    "django/db/models/base.py": {
        "_save_table": PINNED,
        "clean_fields": _named("f"),
        "save_base": READS,
    },
    "django/db/models/deletion.py": {"*": READS},
    "django/db/models/fields/related_descriptors.py": {"__get__": _descriptor},
    "django/db/models/query.py": {
        "_prefetch_related_objects": FOLLOWS,
        "prefetch_related_objects": _prefetch,
    },
    "django/db/models/query_utils.py": {"__get__": _descriptor},
    "django/db/models/sql/compiler.py": {"pre_sql_setup": PINNED},
    "django/forms/boundfield.py": {"as_widget": _bound_field},
    "django/forms/forms.py": {"_clean_fields": _named("name")},
    "django/forms/formsets.py": {"*": OWN},
    "django/forms/models.py": {"save_existing_objects": OWN, "save_new_objects": OWN},
    "django/template/base.py": {"_resolve_lookup": _lookup, "render_annotated": _node},
    "rest_framework/fields.py": {"get_attribute": _source},
    "rest_framework/serializers.py": {
        "to_internal_value": _serializer_field,
        "to_representation": _serializer_field,
    },
    "unittest/case.py": {"_callSetUp": SILENT, "_callTearDown": SILENT},
}
_FOLDERS: Mapping[str, Role] = {
    "django/contrib/sessions/": OWN,
    "django/contrib/sites/": OWN,
    "django/core/management/commands/": SILENT,
    "django/db/migrations/": SILENT,
    "factory/": SILENT,
    "model_bakery/": SILENT,
}


def is_users(filename: str) -> bool:
    """Tell whether a file is the project's: not Python's, not installed, not this package's."""
    return not tail_of(filename)


def roles_of(filename: str, names: Mapping[str, Any]) -> Mapping[str, Role] | None:
    """Return what the functions of a library's file say; None for a file of the user's.

    `names` are the module's: Jinja2 leaves the template among them, for its own tracebacks.
    """
    if "__jinja_template__" in names:
        _pages.add(filename)
        return _JINJA
    tail = tail_of(filename)
    if not tail:
        return None
    if tail in _ROLES:
        return _ROLES[tail]
    for folder, role in _FOLDERS.items():
        if tail.startswith(folder):
            return {"*": role}
    return {"*": OWN} if tail.endswith("/introspection.py") else {}


def tail_of(filename: str) -> str:
    """Return a library's path from its package on, nothing for a file of the user's."""
    if filename.startswith("<frozen ") or filename in _pages:
        return filename
    for folder in _INSTALLED:
        _, found, tail = filename.rpartition(folder)
        if found:
            return tail.replace(os.sep, "/")
    for root, package in _ROOTS:
        if filename.startswith(root + package):
            return filename[len(root) :].replace(os.sep, "/")
    return ""


_JINJA: Mapping[str, Role] = {"*": _jinja}
_pages: set[str] = set()
_INSTALLED = tuple(f"{os.sep}{name}{os.sep}" for name in ("site-packages", "dist-packages"))
_ROOTS = (
    *(
        (os.path.dirname(os.path.abspath(each.__path__[0])) + os.sep, each.__name__ + os.sep)
        for each in (django, dbpatterns)
    ),
    (sysconfig.get_path("stdlib") + os.sep, ""),
)
