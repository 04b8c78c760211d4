"""What `check` says of SoftDeleteModels that keep values taken or show deleted rows."""

from typing import Any

import pytest
from django.apps import apps
from django.core.checks import CheckMessage
from django.db import models
from django.db.models.functions import Lower
from django.test.utils import isolate_apps

from dbpatterns.repositories.checks import check_soft_delete
from dbpatterns.repositories.soft_delete import (
    LiveManager,
    LiveOneToOneField,
    SoftDeleteModel,
    unique_among_live,
)


class _Config:
    """Stands for an app's config: its models are those of the test."""

    def __init__(self, *found: type[models.Model]) -> None:
        self._found = found

    def get_models(self) -> tuple[type[models.Model], ...]:
        return self._found


def messages(*found: type[models.Model]) -> list[CheckMessage]:
    return check_soft_delete([_Config(*found)])  # type: ignore[list-item]


@isolate_apps("tests.testapp")
def test_a_unique_field_keeps_a_deleted_row_s_value_taken() -> None:
    class Page(SoftDeleteModel):
        slug = models.SlugField(unique=True)

        class Meta:
            app_label = "testapp"

    (found,) = messages(Page)
    assert (found.id, found.is_serious(), found.obj) == (
        "dbpatterns.W011",
        False,
        Page._meta.get_field("slug"),
    )
    assert found.msg == "testapp.Page: slug is unique, so a deleted row keeps its value taken."
    assert found.hint == 'Put unique_among_live("slug", name=…) into Meta.constraints instead.'


@isolate_apps("tests.testapp")
def test_unconditional_constraints_keep_values_taken() -> None:
    class Page(SoftDeleteModel):
        slug = models.SlugField()
        number = models.IntegerField()

        class Meta:
            app_label = "testapp"
            unique_together = [("slug", "number")]
            constraints = [
                models.UniqueConstraint(fields=["number"], name="by_number"),
                models.UniqueConstraint(Lower("slug"), name="by_lower"),
                models.CheckConstraint(condition=models.Q(number__gt=0), name="positive"),
            ]

    found = messages(Page)
    assert [each.id for each in found] == ["dbpatterns.W011"] * 3
    together, by_number, by_lower = found
    assert "unique_together has ('slug', 'number')" in together.msg
    assert 'unique_among_live("slug", "number", name=…)' in str(together.hint)
    assert "the constraint 'by_number' has no condition" in by_number.msg
    assert "'by_lower'" in by_lower.msg


@isolate_apps("tests.testapp", "django.contrib.contenttypes")
def test_one_to_one_fields_are_told_of_the_live_one() -> None:
    class Page(SoftDeleteModel):
        class Meta:
            app_label = "testapp"

    class Plain(SoftDeleteModel):
        page = models.OneToOneField(Page, models.CASCADE, related_name="+")

        class Meta:
            app_label = "testapp"

    class Better(SoftDeleteModel):
        page = LiveOneToOneField(Page, models.CASCADE)

        class Meta:
            app_label = "testapp"

    class Key(SoftDeleteModel):
        page = models.OneToOneField(Page, models.CASCADE, primary_key=True, related_name="+")

        class Meta:
            app_label = "testapp"

    class Child(Page):
        class Meta:
            app_label = "testapp"

    (found,) = messages(Page, Plain, Better, Key, Child)
    assert found.id == "dbpatterns.W011"
    assert "testapp.Plain: page is unique" in found.msg
    assert str(found.hint).startswith("Use a LiveOneToOneField")


@isolate_apps("tests.testapp")
def test_a_model_done_right_is_silent_and_so_is_its_proxy() -> None:
    class Page(SoftDeleteModel):
        slug = models.SlugField()

        class Meta:
            app_label = "testapp"
            constraints = [unique_among_live("slug", name="testapp_page_slug")]
            base_manager_name = "everything"

    class Taken(SoftDeleteModel):
        slug = models.SlugField(unique=True)

        class Meta:
            app_label = "testapp"

    class Proxy(Taken):
        class Meta:
            app_label = "testapp"
            proxy = True

    assert messages(Page, Proxy) == []


@isolate_apps("tests.testapp")
@pytest.mark.parametrize("case", ["first declared", "named", "plain query set"])
def test_a_default_manager_that_shows_deleted_rows_is_an_error(case: str) -> None:
    class Page(SoftDeleteModel):
        if case == "first declared":
            published = models.Manager()
        if case == "plain query set":
            objects = LiveManager.from_queryset(models.QuerySet)()

        class Meta:
            app_label = "testapp"
            if case == "named":
                default_manager_name = "everything"

    if case == "plain query set":
        Page._default_manager.__class__.get_queryset = models.Manager.get_queryset
    (found,) = messages(Page)
    assert (found.id, found.is_serious(), found.obj) == ("dbpatterns.E012", True, Page)
    name = {"first declared": "published", "named": "everything", "plain query set": "objects"}
    assert f"testapp.Page: its default manager {name[case]!r} is no LiveManager" in found.msg


@isolate_apps("tests.testapp")
def test_a_base_manager_that_hides_deleted_rows_is_an_error() -> None:
    class Page(SoftDeleteModel):
        class Meta:
            app_label = "testapp"
            base_manager_name = "objects"

    (found,) = messages(Page)
    assert found.id == "dbpatterns.E012"
    assert "save() would insert a deleted row again" in found.msg


@isolate_apps("tests.testapp")
def test_other_models_are_not_looked_at() -> None:
    class Page(models.Model):  # noqa: DJ008
        slug = models.SlugField(unique=True)

        class Meta:
            app_label = "testapp"

    assert messages(Page) == []


@pytest.mark.parametrize("configs", [None, [apps.get_app_config("testapp")]])
def test_the_tests_own_models_are_right(configs: Any) -> None:
    assert check_soft_delete(configs) == []
