"""System checks: what can be seen to be wrong before the first query."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from django.apps import AppConfig, apps
from django.conf import settings
from django.core import checks
from django.db.models import AutoField, BigAutoField, ForeignKey, Model, SmallAutoField
from django.utils.module_loading import import_string

from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.conf import ShardingSettings
from dbpatterns.sharding.fields import CarriesSlot, ShardedIdField
from dbpatterns.sharding.keys import group_of, is_held, is_key, is_sharded, key_field
from dbpatterns.sharding.lookups import declared
from dbpatterns.sharding.querysets import ShardedQuerySet
from dbpatterns.sharding.reference import is_reference
from dbpatterns.sharding.strategies import STRATEGIES

__all__ = ["check_models", "check_sharding", "problems_of"]

ROUTER = "dbpatterns.sharding.ShardRouter"


def check_sharding(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report what the settings say that cannot be; touches no database.

    Ids: dbpatterns_sharding.E001 to E008, E020, E021.
    """
    try:
        sharding = ShardingSettings.load()
    except ConfigurationError:
        return []  # dbpatterns.E001 says it
    return [*_setting_problems(sharding), *_replica_problems(sharding)]


def check_models(app_configs: Sequence[AppConfig] | None, **_: Any) -> list[checks.CheckMessage]:
    """Report sharded models whose rows would go astray; touches no database.

    Ids: dbpatterns_sharding.E009 to E017.
    """
    try:
        ShardingSettings.load()
    except ConfigurationError:
        return []
    configs = apps.get_app_configs() if app_configs is None else app_configs
    return [
        problem
        for config in configs
        for model in config.get_models()
        if not model._meta.proxy
        for problem in (problems_of(model) if is_sharded(model) else _keyless_problems(model))
    ]


def _setting_problems(sharding: ShardingSettings) -> Iterator[checks.CheckMessage]:
    for alias in sharding.shards:
        if alias not in settings.DATABASES:
            yield checks.Error(
                f"Shard {alias!r} is not a database.",
                hint=f"Add {alias!r} to DATABASES, or take it out of SHARDS.",
                id="dbpatterns_sharding.E001",
            )
        elif settings.DATABASES[alias].get("ATOMIC_REQUESTS"):
            yield checks.Error(
                f"ATOMIC_REQUESTS is on for shard {alias!r}: every request would open a "
                "transaction on every shard.",
                hint="Turn it off for shards, and open transactions where rows are changed.",
                id="dbpatterns_sharding.E008",
            )
    if len(set(sharding.shards)) < len(sharding.shards):
        yield checks.Error(
            "A database stands in SHARDS twice.",
            hint="Name each shard once: the first map deals the slots to them.",
            id="dbpatterns_sharding.E002",
        )
    for one, other, place in _same_databases(sharding.shards):
        yield checks.Error(
            f"Shards {one!r} and {other!r} are one database, {place}: each would have the other's "
            "rows as its own.",
            hint="Give each shard a database of its own, or leave one out of SHARDS before any map "
            "deals slots to it.",
            id="dbpatterns_sharding.E020",
        )
    labels = {config.label for config in apps.get_app_configs()}
    for label in sorted(sharding.apps - labels):
        yield checks.Error(
            f"Sharded app {label!r} is not installed.",
            hint=f"Use an app label: {', '.join(sorted(labels))}.",
            id="dbpatterns_sharding.E003",
        )
    if sharding.apps and not _has_router():
        yield checks.Error(
            "Apps are sharded, but the router is missing: their rows would go to 'default'.",
            hint=f'Add "{ROUTER}" to DATABASE_ROUTERS.',
            id="dbpatterns_sharding.E004",
        )
    for label in sorted(sharding.apps):
        groups = [name for name, group in sharding.groups.items() if label in group.apps]
        if len(groups) > 1:
            yield checks.Error(
                f"App {label!r} is in {len(groups)} groups: {', '.join(groups)}.",
                hint="Leave it in one: its rows are placed by that one's map.",
                id="dbpatterns_sharding.E005",
            )
    for name, group in sharding.groups.items():
        if group.strategy not in STRATEGIES:
            yield checks.Error(
                f"Group {name!r} has an unknown strategy, {group.strategy!r}.",
                hint=f"Use one of {', '.join(STRATEGIES)}.",
                id="dbpatterns_sharding.E006",
            )
    if sharding.groups and sharding.control not in settings.DATABASES:
        yield checks.Error(
            f"The map is to be kept in {sharding.control!r}, which is not a database.",
            hint="Set CONTROL to an alias of DATABASES.",
            id="dbpatterns_sharding.E007",
        )


def _same_databases(aliases: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Yield pairs of aliases that lead to one database by their settings, and where it is.

    Two names of one server are not seen through: nobody is asked.
    """
    known: dict[tuple[str, ...], str] = {}
    for alias in dict.fromkeys(aliases):
        database = settings.DATABASES.get(alias, {})
        name = str(database.get("NAME") or "")
        if not name or ":memory:" in name or "mode=memory" in name:
            continue  # by a service file, or each its own
        parts = [str(database.get(part) or "") for part in ("HOST", "PORT")]
        first = known.setdefault((name, *parts), alias)
        if first != alias:
            yield first, alias, ", ".join((repr(name), *filter(None, parts)))


def _replica_problems(sharding: ShardingSettings) -> Iterator[checks.CheckMessage]:
    named = [alias for replicas in sharding.replicas.values() for alias in replicas]
    for primary, replicas in sharding.replicas.items():
        if primary not in sharding.shards:
            yield _no_replica(f"REPLICAS has some of {primary!r}, which is no shard.")
        for alias in dict.fromkeys(replicas):
            database = settings.DATABASES.get(alias)
            if database is None:
                yield _no_replica(f"Replica {alias!r} of {primary!r} is not a database.")
            elif alias in (*sharding.shards, sharding.control):
                yield _no_replica(f"Replica {alias!r} of {primary!r} is written to as well.")
            elif named.count(alias) > 1:
                yield _no_replica(f"Replica {alias!r} stands in REPLICAS twice.")
            elif not database["ENGINE"].endswith("postgresql"):
                yield _no_replica(f"Replica {alias!r} of {primary!r} is no PostgreSQL server.")
            elif (database.get("TEST") or {}).get("MIRROR") != primary:
                yield _no_replica(f"Tests would make a database of its own for replica {alias!r}.")


def _no_replica(what: str) -> checks.CheckMessage:
    return checks.Error(
        what,
        hint="A replica is an alias of its own, of a PostgreSQL server that follows that shard, "
        'with "TEST": {"MIRROR": <the shard>}.',
        id="dbpatterns_sharding.E021",
    )


def _has_router() -> bool:
    from dbpatterns.sharding.router import ShardRouter  # reads models

    named: list[Any] = settings.DATABASE_ROUTERS
    routers = [import_string(each) if isinstance(each, str) else type(each) for each in named]
    return any(isinstance(each, type) and issubclass(each, ShardRouter) for each in routers)


def problems_of(model: type[Model]) -> Iterator[checks.CheckMessage]:
    """Yield what is wrong with a sharded model; touches no database."""
    label = model._meta.label
    try:
        group = group_of(model)
    except ConfigurationError as error:
        yield checks.Error(
            str(error),
            hint="Or derive it from Model, if it is not to be sharded.",
            obj=model,
            id="dbpatterns_sharding.E009",
        )
        return
    try:
        field = key_field(model)
    except ConfigurationError as error:
        yield checks.Error(
            str(error),
            hint="Name a column that says to whom a row belongs.",
            obj=model,
            id="dbpatterns_sharding.E010",
        )
        return
    if not is_key(field):
        yield checks.Error(
            f"{label}.{field.name} is the shard key and a {type(field).__name__}.",
            hint="A shard key is an integer, a text or a UUID, or the foreign key of one.",
            obj=model,
            id="dbpatterns_sharding.E010",
        )
    parent = _parent_without_slot(field, group)
    if parent is not None:
        yield checks.Error(
            f"{label}.{field.name} is the shard key and refers to {parent._meta.label}, which is "
            "not placed by what it refers to: the two rows would lie on two shards.",
            hint=f"Give this model the key of that one, {parent.shard_key!r}, or that one an id "
            "that carries its slot.",
            obj=model,
            id="dbpatterns_sharding.E010",
        )
    for each in (model, *_through_models(model)):
        if isinstance(each._meta.pk, AutoField | BigAutoField | SmallAutoField):
            yield checks.Error(
                f"{each._meta.label} counts its ids on each shard, so two shards have the same.",
                hint="Give it a ShardedIdField, a ShardedUUIDField, or a key of your own; a "
                "many-to-many field takes it by `through`.",
                obj=model,
                id="dbpatterns_sharding.E011",
            )
    strategy = ShardingSettings.load().groups[group].strategy
    if isinstance(model._meta.pk, ShardedIdField) and strategy != "hash":
        yield checks.Error(
            f"{label} has a ShardedIdField, and with the strategy {strategy!r} keys of one slot lie"
            " on several shards, which would make the same ids.",
            hint="Take a ShardedUUIDField, which is unique without asking anybody.",
            obj=model,
            id="dbpatterns_sharding.E014",
        )
    for manager in {*model._meta.managers, model._base_manager}:
        if not isinstance(manager.get_queryset(), ShardedQuerySet):
            yield checks.Error(
                f"{label}.{manager.name} is no manager of sharded rows: it would not read a "
                "query's key.",
                hint="Derive it from ShardedManager, or make it by ShardedManager.from_queryset().",
                obj=model,
                id="dbpatterns_sharding.E012",
            )
    columns: Iterable[Any] = model._meta.concrete_fields
    for column in columns:
        if not is_held(column) or is_reference(target := column.remote_field.model):
            continue
        if ShardingSettings.load().group_of(target._meta.app_label) != group:
            yield checks.Error(
                f"{label}.{column.name} refers to {target._meta.label}, which is not on the shards "
                f"of group {group!r}.",
                hint="Make that a reference model, or keep its key without a constraint "
                "(db_constraint=False).",
                obj=model,
                id="dbpatterns_sharding.E013",
            )
    yield from _index_problems(model)


def _index_problems(model: type[Model]) -> Iterator[checks.CheckMessage]:
    for index in declared(model):
        why = index.problem(model)
        if why is not None:
            yield checks.Error(
                f"{model._meta.label} has a lookup index, and {why}.",
                hint="Index a unique column of integers, UUIDs or short texts.",
                obj=model,
                id="dbpatterns_sharding.E016",
            )
        sharding = ShardingSettings.load()
        if sharding.control in sharding.shards:
            yield checks.Error(
                f"{model._meta.label} has a lookup index, whose entries are to be in "
                f"{sharding.control!r}, which is a shard.",
                hint="Keep them apart: set CONTROL to a database that is no shard.",
                obj=model,
                id="dbpatterns_sharding.E017",
            )


def _keyless_problems(model: type[Model]) -> Iterator[checks.CheckMessage]:
    if isinstance(model._meta.pk, CarriesSlot):
        yield checks.Error(
            f"{model._meta.label} names no shard key, whose slot its ids are to carry.",
            hint="Derive it from ShardedModel and name its shard_key, or take another primary key.",
            obj=model,
            id="dbpatterns_sharding.E015",
        )


def _parent_without_slot(field: Any, group: str) -> Any:
    """Return the sharded model that a key leads to, if its column there does not place its row."""
    while isinstance(field, ForeignKey):
        field = field.target_field
    target = field.model
    if not is_sharded(target) or target.shard_key in (field.name, field.attname):
        return None
    is_elsewhere = ShardingSettings.load().group_of(target._meta.app_label) != group
    return None if is_elsewhere or isinstance(field, CarriesSlot) else target


def _through_models(model: type[Model]) -> Iterator[type[Model]]:
    for field in model._meta.local_many_to_many:
        through: Any = field.remote_field.through
        if through._meta.auto_created:
            yield through
