"""The map and the record of migrations in the admin: to look at."""

import pytest
from django.contrib.auth import get_user_model
from django.test import Client
from django.urls import reverse
from django.utils.timezone import now

from dbpatterns.sharding import shards
from dbpatterns.sharding.map_store import Rows, change, read
from dbpatterns.sharding.models import (
    MapChange,
    PlacedKey,
    ShardGroup,
    ShardMigration,
    SlotRange,
)

pytestmark = pytest.mark.django_db(databases="__all__")
MODELS = (ShardGroup, SlotRange, PlacedKey, MapChange, ShardMigration)


@pytest.fixture
def operator(client: Client) -> Client:
    """A client that may do everything the admin lets anybody do."""
    client.force_login(get_user_model().objects.create_superuser("operator", password="secret"))
    return client


def url(model: type, page: str, *arguments: object) -> str:
    return reverse(f"admin:dbpatterns_sharding_{model.__name__.lower()}_{page}", args=arguments)


def a_row_of_each() -> dict[type, object]:
    change(read("bank"), Rows({0: shards()[0], 4_096: shards()[1]}, {}), "two halves & more")
    failed = ShardMigration.objects.create(
        shard=shards()[0],
        app="banking",
        name="0001_initial",
        state="failed",
        error="IntegrityError: <b>twice</b>",
        started_at=now(),
    )
    regions = ShardGroup.objects.create(name="regions", strategy="geographic")
    placed = PlacedKey.objects.create(group=regions, key="str:eu", shard=shards()[1])
    return {
        ShardGroup: "bank",
        SlotRange: SlotRange.objects.all()[0].pk,
        PlacedKey: placed.pk,
        MapChange: MapChange.objects.get().pk,
        ShardMigration: failed.pk,
    }


def test_lists_and_pages_show_and_nobody_changes(operator: Client) -> None:
    for model, pk in a_row_of_each().items():
        page = url(model, "change", pk)
        assert operator.get(url(model, "changelist")).status_code == 200
        assert operator.get(page).status_code == 200
        assert operator.post(page, {}).status_code == 403
        assert operator.get(url(model, "add")).status_code == 403
        assert operator.post(url(model, "delete", pk), {"post": "yes"}).status_code == 403


def test_a_group_s_page_draws_its_map_and_leads_to_its_rows(operator: Client) -> None:
    a_row_of_each()
    page = operator.get(url(ShardGroup, "change", "bank")).content.decode()
    first, second = shards()[:2]
    assert f"<title>{first}: 0 to 4095</title>" in page
    assert f"<title>{second}: 4096 to 16383</title>" in page
    assert f"{second}: 12,288 slots</div>" in page
    link = url(SlotRange, "changelist") + "?group__name__exact=bank"
    assert f'href="{link}"' in page
    assert operator.get(link).context["cl"].result_count == 2


def test_a_map_that_cannot_be_read_is_a_sentence(operator: Client) -> None:
    SlotRange.objects.all().delete()
    page = operator.get(url(ShardGroup, "change", "bank")).content.decode()
    assert "have no shard" in page
    assert 'role="img"' not in page


def test_a_failed_migration_shows_its_error_as_text(operator: Client) -> None:
    pk = a_row_of_each()[ShardMigration]
    page = operator.get(url(ShardMigration, "change", pk)).content.decode()
    assert "IntegrityError: &lt;b&gt;twice&lt;/b&gt;" in page
