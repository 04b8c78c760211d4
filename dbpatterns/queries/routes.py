"""How the loop's rows reach the object that queried: `post.author.country` is "author__country".

The fix belongs to the queryset that read the loop's rows, often two relations or a property away.
Each frame further out is asked for the expression it is at; when that walks, over relations that
are loaded already, to the object in hand, the route grows by them. Nothing here queries.
"""

import ast
import linecache
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

from django.db.models import Model, QuerySet
from django.template.base import Node
from django.template.context import Context

from dbpatterns._compat import loaded_rows
from dbpatterns.queries.libraries import is_users, tail_of
from dbpatterns.queries.spots import Spot
from dbpatterns.queries.subjects import field_named

__all__ = [
    "method_at",
    "onward",
    "owners_in",
    "route_to",
    "rows_around",
    "rows_expression",
    "written_out",
]

_MAX_ROWS = 100_000
_DEEP = 3
_NAMES = re.compile(r"[^\W\d]\w*(?:\.\w+)*")
_CONDITION = re.compile(r"(?:if|elif|while)\b\s*")


def route_to(doing: Mapping[FrameType, Spot], target: Model) -> tuple[list[str], Model]:
    """Return the relations from the loop's object to the target, and the loop's object."""
    path: list[str] = []
    for frame, spot in doing.items():
        for root, taken in (
            *((root, _walk(root, names, target)) for root, names in _chains(frame, spot)),
            *_loaded_around(frame, target),
        ):
            if taken:
                path, target = [*taken, *path], root
                break
    return path, target


def onward(doing: Mapping[FrameType, Spot], target: Model, name: str) -> list[str]:
    """Return the relations to one that the path goes on with, in code, template or serializer.

    `novel.author.country.name` asks for the country next, once the author is there.
    """
    for frame, spot in doing.items():
        for root, names in (*_dotted(frame, spot), *_chains(frame, spot)):
            taken = len(_walk(root, names, target))
            if list(names[taken : taken + 1]) == [name] and (taken or root is target):
                return _to_one(type(target), names[taken:])[1:]
    return []


def _dotted(frame: FrameType, spot: Spot) -> Iterable[tuple[Any, Sequence[str]]]:
    """Yield the names that stand in the source from where an instruction starts."""
    if is_users(frame.f_code.co_filename):
        line, _, left, _ = spot.position
        source = linecache.getline(frame.f_code.co_filename, line).encode()[left:]
        if found := _NAMES.match(source.decode(errors="replace")):
            first, *names = found[0].split(".")
            if first in frame.f_locals:
                yield frame.f_locals[first], names


def _to_one(model: Any, names: Sequence[str]) -> list[str]:
    taken: list[str] = []
    for name in names:
        field = field_named(model, name)
        if field is None or not (field.many_to_one or field.one_to_one) or not field.related_model:
            break
        taken.append(name)
        model = field.related_model
    return taken


def _loaded_around(frame: FrameType, target: Model) -> Iterator[tuple[Model, list[str]]]:
    """Yield objects among a frame's variables that lead to the target, where no source says so.

    So are pages of Jinja2, and functions that take a path as text.
    """
    filename = frame.f_code.co_filename
    if not is_users(filename) and "__jinja_template__" not in frame.f_globals:
        return
    roots = [each for each in frame.f_locals.values() if isinstance(each, Model)]
    if not any(each is target for each in roots):
        for root in roots:
            yield root, _path_to(root, target, _DEEP)


def _path_to(root: Any, target: Model, deep: int) -> list[str]:
    fields: Any = type(root)._meta.get_fields() if deep and isinstance(root, Model) else ()
    for field in fields:
        if hasattr(field, "is_cached") and field.is_cached(root):
            each = field.get_cached_value(root)
            if each is target:
                return [field.name]
            if further := _path_to(each, target, deep - 1):
                return [field.name, *further]
    return []


def owners_in(doing: Mapping[FrameType, Spot]) -> Iterable[tuple[Model, Sequence[str]]]:
    """Yield objects that the innermost expression starts from, and the names it goes on with."""
    for frame, spot in doing.items():
        found = [(root, names) for root, names in _chains(frame, spot) if isinstance(root, Model)]
        yield from found
        if found or is_users(frame.f_code.co_filename):
            return


def rows_around(frames: Iterable[FrameType], row: Model) -> int:
    """Return how many rows the list or queryset around a row has, 0 when no frame shows one."""
    for frame in frames:
        for value in list(frame.f_locals.values()):
            rows = loaded_rows(value) if isinstance(value, QuerySet) else value
            if (
                isinstance(rows, list | tuple)
                and 1 < len(rows) <= _MAX_ROWS
                and any(each is row for each in rows)
            ):
                return len(rows)
    return 0


def expression_at(spot: Spot) -> str:
    """Return the source of the expression an instruction belongs to, nothing without a source."""
    first, last, left, right = spot.position
    lines = [
        linecache.getline(spot.code.co_filename, number).encode()
        for number in range(first, last + 1)
    ]
    if not any(lines) or right == 0:
        return ""
    lines[-1] = lines[-1][:right]
    lines[0] = lines[0][left:]
    return " ".join(line.decode(errors="replace").strip() for line in lines)


def _chains(frame: FrameType, spot: Spot) -> Iterable[tuple[Any, Sequence[str]]]:
    names = frame.f_locals
    filename, function = frame.f_code.co_filename, frame.f_code.co_name
    if is_users(filename):
        chain = _attributes(expression_at(spot))
        if chain and chain[0] in names:
            yield names[chain[0]], chain[1:]
    elif function == "render_annotated" and isinstance(names.get("context"), Context):
        yield from _template_chain(names["self"], names["context"])
    elif function == "to_representation" and tail_of(filename) == "rest_framework/serializers.py":
        source = getattr(names.get("field"), "source_attrs", None)
        if source and "instance" in names:
            yield names["instance"], source


def _template_chain(node: Node, context: Context) -> Iterable[tuple[Any, Sequence[str]]]:
    token = getattr(node, "token", None)
    for word in token.contents.split() if token is not None else ():
        first, *rest = word.split("|")[0].split(".")
        if first in context:
            yield context[first], rest


def method_at(spot: Spot, model: type[Model]) -> str:
    """Return the last method in the chain an instruction reads: "filter" of `qs.filter(a=1)`."""
    chain = _attributes(expression_at(spot))
    name = chain[-1] if len(chain) > 1 else "all"
    name = "iterator" if name == "aiterator" else name
    is_method = callable(getattr(model._default_manager.all(), name, None))
    return name if is_method and name != "all" else ""


def written_out(spots: Iterable[Spot]) -> int:
    """Return how many calls a `gather()` names one by one; 0 without one, or when a loop does."""
    for spot in spots:
        if is_users(spot.code.co_filename):
            tree = _parsed(expression_at(spot))
            tree = tree.value if isinstance(tree, ast.Await) else tree
            if isinstance(tree, ast.Call) and ast.unparse(tree.func).endswith("gather"):
                is_loop = any(isinstance(each, ast.Starred) for each in tree.args)
                return 0 if is_loop else len(tree.args)
    return 0


def rows_expression(spot: Spot) -> str:
    """Return what is read at an instruction, `Post.objects.filter(...)`, without arguments."""
    tree = _parsed(expression_at(spot))
    tree = tree and _unwrapped(tree)
    for node in ast.walk(tree) if tree else ():
        if isinstance(node, ast.Call) and (node.args or node.keywords):
            node.args, node.keywords = [ast.Constant(...)], []
    return ast.unparse(tree) if tree else ""


def _attributes(expression: str) -> list[str]:
    """Return `["post", "author"]` of `post.author` and of `str(post.author)`."""
    tree = _parsed(expression)
    tree = tree and _unwrapped(tree)
    names: list[str] = []
    while tree is not None and not isinstance(tree, ast.Name):
        if isinstance(tree, ast.Call):
            tree = tree.func
        elif isinstance(tree, ast.Attribute):
            names.append(tree.attr)
            tree = tree.value
        elif isinstance(tree, ast.Subscript):
            tree = tree.value
        else:
            return []
    return [] if tree is None else [tree.id, *reversed(names)]


def _parsed(expression: str) -> ast.expr | None:
    # Before Python 3.12 the position of a loop's first step, or of a condition, is all of it.
    heads = (expression[:at] for at, each in enumerate(expression) if each == ":")
    if expression.startswith(("for ", "async for ")):
        return next(filter(None, (_body(f"[0 {head}]") for head in heads)), None)
    if condition := _CONDITION.match(expression):
        return next(filter(None, (_body(head[condition.end() :]) for head in heads)), None)
    return _body(expression)


def _body(source: str) -> ast.expr | None:
    try:
        return ast.parse(source, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, SystemError):
        return None  # SystemError: a traceback printed meanwhile has parsed too (CPython gh-106905)


def _unwrapped(tree: ast.expr) -> ast.expr:
    """Return what is read: `posts` of `enumerate(posts)` and of `[post for post in posts]`."""
    while True:
        if isinstance(tree, ast.Await):
            tree = tree.value
        elif isinstance(tree, ast.UnaryOp):
            tree = tree.operand
        elif isinstance(tree, ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp):
            tree = tree.generators[0].iter
        elif isinstance(tree, ast.Call) and isinstance(tree.func, ast.Name) and tree.args:
            tree = tree.args[0]
        else:
            return tree


def _walk(root: Any, names: Sequence[str], target: Model) -> list[str]:
    taken: list[str] = []
    each = root
    for name in names:
        if each is target:
            break
        field = field_named(type(each), name) if isinstance(each, Model) else None
        if field is None or not hasattr(field, "is_cached") or not field.is_cached(each):
            return []
        taken.append(name)
        each = field.get_cached_value(each)
    return taken if each is target else []
