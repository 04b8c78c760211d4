"""System checks: what can be seen to be wrong before the first query."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.db.models import AutoField, BigAutoField, Model, SmallAutoField
from django.utils.module_loading import import_string

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.fields import CarriesSlot, ShardedIdField
from dbpatterns.sharding.keys import group_of, is_held, is_key, is_sharded, key_field
from dbpatterns.sharding.querysets import ShardedQuerySet
from dbpatterns.sharding.reference import is_reference
from dbpatterns.sharding.strategies import STRATEGIES

__all__ = ["check_models", "check_sharding", "problems_of"]

ROUTER = "dbpatterns.sharding.ShardRouter"


def check_sharding(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report what the settings say that cannot be; touches no database.

    Ids: dbpatterns_sharding.E001 to E008.
    """
    try:
        sharding = ShardingSettings.load()
    except ConfigurationError:
        return []  # dbpatterns.E001 says it
    return [
        checks.Error(message, hint=hint, id=f"dbpatterns_sharding.{number}")
        for number, message, hint in _setting_problems(sharding)
    ]


def check_models(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report sharded models whose rows would go astray; touches no database.

    Ids: dbpatterns_sharding.E009 to E015.
    """
    try:
        ShardingSettings.load()
    except ConfigurationError:
        return []
    configs = apps.get_app_configs() if app_configs is None else app_configs
    return [
        checks.Error(message, hint=hint, obj=model, id=f"dbpatterns_sharding.{number}")
        for config in configs
        for model in config.get_models()
        if not model._meta.proxy
        for number, message, hint in (
            problems_of(model) if is_sharded(model) else _keyless_problems(model)
        )
    ]


def _setting_problems(sharding: ShardingSettings) -> Iterator[tuple[str, str, str]]:
    for alias in sharding.shards:
        if alias not in settings.DATABASES:
            yield (
                "E001",
                f"Shard {alias!r} is not a database.",
                f"Add {alias!r} to DATABASES, or take it out of SHARDS.",
            )
        elif settings.DATABASES[alias].get("ATOMIC_REQUESTS"):
            yield (
                "E008",
                f"ATOMIC_REQUESTS is on for shard {alias!r}: every request would open a "
                "transaction on every shard.",
                "Turn it off for shards, and open transactions where rows are changed.",
            )
    if len(set(sharding.shards)) < len(sharding.shards):
        yield (
            "E002",
            "A database stands in SHARDS twice.",
            "Name each shard once: the first map deals the slots to them.",
        )
    labels = {config.label for config in apps.get_app_configs()}
    for label in sorted(sharding.apps - labels):
        yield (
            "E003",
            f"Sharded app {label!r} is not installed.",
            f"Use an app label: {', '.join(sorted(labels))}.",
        )
    if sharding.apps and not _has_router():
        yield (
            "E004",
            "Apps are sharded, but the router is missing: their rows would go to 'default'.",
            f'Add "{ROUTER}" to DATABASE_ROUTERS.',
        )
    for label in sorted(sharding.apps):
        groups = [name for name, group in sharding.groups.items() if label in group.apps]
        if len(groups) > 1:
            yield (
                "E005",
                f"App {label!r} is in {len(groups)} groups: {', '.join(groups)}.",
                "Leave it in one: its rows are placed by that one's map.",
            )
    for name, group in sharding.groups.items():
        if group.strategy not in STRATEGIES:
            yield (
                "E006",
                f"Group {name!r} has an unknown strategy, {group.strategy!r}.",
                f"Use one of {', '.join(STRATEGIES)}.",
            )
    if sharding.groups and sharding.control not in settings.DATABASES:
        yield (
            "E007",
            f"The map is to be kept in {sharding.control!r}, which is not a database.",
            "Set CONTROL to an alias of DATABASES.",
        )


def _has_router() -> bool:
    from dbpatterns.sharding.router import ShardRouter  # reads models

    named: list[Any] = settings.DATABASE_ROUTERS
    routers = [import_string(each) if isinstance(each, str) else type(each) for each in named]
    return any(isinstance(each, type) and issubclass(each, ShardRouter) for each in routers)


def problems_of(model: type[Model]) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with a sharded model: the check's number, what it is, what to do."""
    label = model._meta.label
    try:
        group = group_of(model)
    except ConfigurationError as error:
        yield "E009", str(error), "Or derive it from Model, if it is not to be sharded."
        return
    try:
        field = key_field(model)
    except ConfigurationError as error:
        yield "E010", str(error), "Name a column that says to whom a row belongs."
        return
    if not is_key(field):
        yield (
            "E010",
            f"{label}.{field.name} is the shard key and a {type(field).__name__}.",
            "A shard key is an integer, a text or a UUID, or the foreign key of one.",
        )
    for each in (model, *_through_models(model)):
        if isinstance(each._meta.pk, AutoField | BigAutoField | SmallAutoField):
            yield (
                "E011",
                f"{each._meta.label} counts its ids on each shard, so two shards have the same.",
                "Give it a ShardedIdField, a ShardedUUIDField, or a key of your own; a "
                "many-to-many field takes it by `through`.",
            )
    strategy = ShardingSettings.load().groups[group].strategy
    if isinstance(model._meta.pk, ShardedIdField) and strategy != "hash":
        yield (
            "E014",
            f"{label} has a ShardedIdField, and with the strategy {strategy!r} keys of one slot lie"
            " on several shards, which would make the same ids.",
            "Take a ShardedUUIDField, which is unique without asking anybody.",
        )
    for manager in {*model._meta.managers, model._base_manager}:
        if not isinstance(manager.get_queryset(), ShardedQuerySet):
            yield (
                "E012",
                f"{label}.{manager.name} is no manager of sharded rows: it would not read a "
                "query's key.",
                "Derive it from ShardedManager, or make it by ShardedManager.from_queryset().",
            )
    columns: Iterable[Any] = model._meta.concrete_fields
    for column in columns:
        if not is_held(column) or is_reference(target := column.remote_field.model):
            continue
        if ShardingSettings.load().group_of(target._meta.app_label) != group:
            yield (
                "E013",
                f"{label}.{column.name} refers to {target._meta.label}, which is not on the shards "
                f"of group {group!r}.",
                "Make that a reference model, or keep its key without a constraint "
                "(db_constraint=False).",
            )


def _keyless_problems(model: type[Model]) -> Iterator[tuple[str, str, str]]:
    if isinstance(model._meta.pk, CarriesSlot):
        yield (
            "E015",
            f"{model._meta.label} names no shard key, whose slot its ids are to carry.",
            "Derive it from ShardedModel and name its shard_key, or take another primary key.",
        )


def _through_models(model: type[Model]) -> Iterator[type[Model]]:
    for field in model._meta.local_many_to_many:
        through: Any = field.remote_field.through
        if through._meta.auto_created:
            yield through
