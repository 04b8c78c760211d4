"""What a fan-out refuses: questions whose parts do not add up to the whole's answer."""

from typing import Any

from django.db.models import Model
from django.db.models.expressions import Col
from django.db.models.sql import Query

from dbpatterns.errors import UsageError
from dbpatterns.sharding.keys import is_held, is_sharded, key_field
from dbpatterns.sharding.routing import refuse_foreign

__all__ = ["is_of_one_shard", "is_whole", "refuse", "refused"]


def refused(model: type[Model], what: str, instead: str) -> UsageError:
    """Return the error for a question that cannot be merged."""
    return UsageError(f"A fan-out over {model._meta.label} cannot {what}. {instead}")


def refuse(query: Query) -> None:
    """Refuse a query whose answers, shard by shard, are not the answer. No query.

    Raises: UsageError, CrossShardError.
    """
    model = query.model
    assert model is not None
    asked: Any = query
    one_by_one = "Ask each shard by `.using(alias)`, or one key's shard."
    if query.combinator:
        raise refused(model, f"merge a {query.combinator}()", "Fan out each side.")
    if query.select_for_update:
        raise refused(model, "lock rows", one_by_one)
    if query.extra or asked.extra_order_by or asked.extra_tables:
        raise refused(model, "look into extra()", "Use expressions in its place.")
    if query.distinct_fields:
        raise refused(model, "merge distinct() on fields", one_by_one)
    for name, annotation in query.annotations.items():
        if getattr(annotation, "contains_over_clause", False):
            raise refused(
                model,
                f"merge the window function in {name!r}, which sees the rows of one shard",
                one_by_one,
            )
    refuse_foreign(query, None, is_pinned=False)


def is_whole(query: Query) -> bool:
    """Tell whether all rows of each group lie on one shard; no query.

    So it is when a group has one shard key, or one row that lies on a shard.
    """
    assert isinstance(query.group_by, tuple)
    return any(is_of_one_shard(each, query) for each in query.group_by)


def is_of_one_shard(expression: Any, query: Query) -> bool:
    """Tell whether rows that are alike in this all lie on one shard; no query."""
    if not isinstance(expression, Col):
        return False
    field: Any = expression.target
    if field.null or not is_sharded(field.model):
        return False
    table: Any = query.alias_map[expression.alias]
    if table.join_type == "LEFT OUTER JOIN":
        return False
    return (
        field == key_field(field.model)
        or field.primary_key
        or (is_held(field) and is_sharded(field.related_model))
    )
