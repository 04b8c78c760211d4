"""The map and the record of migrations in the admin, to look at: commands and code change them."""

from itertools import pairwise

from django.contrib import admin
from django.urls import reverse
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString
from django.utils.translation import gettext_lazy

from dbpatterns.admin import ReadOnlyAdmin
from dbpatterns.errors import ConfigurationError
from dbpatterns.sharding.hashing import SLOTS
from dbpatterns.sharding.map_store import Rows, read
from dbpatterns.sharding.models import (
    MapChange,
    PlacedKey,
    ShardGroup,
    ShardMigration,
    SlotRange,
)
from dbpatterns.sharding.shard_map import ShardMap
from dbpatterns.sharding.status import holdings

__all__ = [
    "MapChangeAdmin",
    "PlacedKeyAdmin",
    "ShardGroupAdmin",
    "ShardMigrationAdmin",
    "SlotRangeAdmin",
]


@admin.register(ShardGroup)
class ShardGroupAdmin(ReadOnlyAdmin):
    """Groups; the page of one draws its map, and leads to the rows, of which there may be many."""

    list_display = ("name", "strategy", "epoch")
    fields = ("name", "strategy", "epoch", "picture", "rows")
    readonly_fields = ("picture", "rows")

    @admin.display(description=gettext_lazy("who holds what"))
    def picture(self, group: ShardGroup) -> str:
        """Draw the slots as one bar, with a line for each shard; four queries."""
        try:
            found = read(group.pk)
        except ConfigurationError as error:
            return str(error)
        return format_html("{}{}", _bar(found), _legend(found))

    @admin.display(description=gettext_lazy("its rows"))
    def rows(self, group: ShardGroup) -> str:
        """Lead to the lists of this group's rows; no query."""
        return format_html_join(
            " · ",
            '<a href="{}?group__name__exact={}">{}</a>',
            (
                (
                    reverse(
                        f"{self.admin_site.name}:{each._meta.label_lower.replace('.', '_')}"
                        "_changelist"
                    ),
                    group.pk,
                    each._meta.verbose_name_plural,
                )
                for each in (SlotRange, PlacedKey, MapChange)
            ),
        )


@admin.register(SlotRange)
class SlotRangeAdmin(ReadOnlyAdmin):
    """Slots, from each range's first."""

    list_display = ("group", "first_slot", "shard")
    list_filter = ("group", "shard")


@admin.register(PlacedKey)
class PlacedKeyAdmin(ReadOnlyAdmin):
    """Keys that are placed by themselves."""

    list_display = ("group", "key", "shard")
    list_filter = ("group", "shard")
    search_fields = ("key",)


@admin.register(MapChange)
class MapChangeAdmin(ReadOnlyAdmin):
    """Changes, the newest first."""

    list_display = ("group", "epoch", "change", "changed_at")
    list_filter = ("group",)


@admin.register(ShardMigration)
class ShardMigrationAdmin(ReadOnlyAdmin):
    """What `migrate --shards` did, the newest first."""

    list_display = ("shard", "app", "name", "state", "started_at", "finished_at")
    list_filter = ("state", "shard", "app")
    search_fields = ("name", "error")


def _colours(of: ShardMap) -> dict[str, str]:
    shards = list(holdings(of))
    return {
        shard: f"hsl({number * 360 // len(shards)}, 55%, 50%)"
        for number, shard in enumerate(shards)
    }


def _bar(of: ShardMap) -> SafeString:
    """Return the slots as a picture; empty for a map that has none, such as one by range."""
    slots = Rows.of(of).slots
    if not slots:
        return SafeString()
    colours = _colours(of)
    parts = format_html_join(
        "",
        '<rect x="{}" width="{}" height="24" fill="{}"><title>{}: {} to {}</title></rect>',
        (
            (first, after - first, colours[slots[first]], slots[first], first, after - 1)
            for first, after in pairwise([*sorted(slots), SLOTS])
        ),
    )
    return format_html(
        '<svg role="img" aria-label="{}" viewBox="0 0 {} 24" width="100%" height="24"'
        ' preserveAspectRatio="none">{}</svg>',
        gettext_lazy("Slots by shard"),
        SLOTS,
        parts,
    )


def _legend(of: ShardMap) -> SafeString:
    colours = _colours(of)
    return format_html_join(
        "",
        '<div><svg width="12" height="12" aria-hidden="true"><rect width="12" height="12"'
        ' fill="{}"></rect></svg> {}: {}</div>',
        ((colours[shard], shard, each) for shard, each in holdings(of).items()),
    )
