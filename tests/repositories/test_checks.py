"""The root app's checks of repositories and services, as `manage.py check` runs them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core import checks
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.test import override_settings

from dbpatterns import services
from dbpatterns.repositories import Repository
from dbpatterns.repositories.checks import check_fat_repositories
from tests.testapp.models import Article


def found(**options: Any) -> list[checks.CheckMessage]:
    with override_settings(DBPATTERNS={"REPOSITORIES": options}):
        return [each for each in check_fat_repositories(None) if "WideRepository" in each.msg]


class WideRepository(Repository[Article]):
    """Four finders of its own, one of them inherited by another."""

    def one(self) -> int:
        return self.count()

    def two(self) -> int:
        return self.count()

    def _private(self) -> int:
        return self.count()

    def count(self, spec: Any = None, /, **criteria: Any) -> int:
        """Override what the contract has: nothing is added."""
        return super().count(spec, **criteria)


class WiderRepository(WideRepository):
    """And one more."""

    def three(self) -> int:
        return self.count()


def test_a_repository_of_many_methods_is_a_warning() -> None:
    assert found(FAT_REPOSITORY_METHODS=2) == []
    (warning,) = found(FAT_REPOSITORY_METHODS=1)
    assert warning.id == "dbpatterns.W010"
    assert "WideRepository adds 2 public methods; more than 1" in warning.msg
    assert warning.obj is WideRepository


def test_inherited_methods_count_and_the_default_bound_spares_most() -> None:
    with override_settings(DBPATTERNS={"REPOSITORIES": {"FAT_REPOSITORY_METHODS": 2}}):
        objs = [each.obj for each in check_fat_repositories(None)]
    assert WiderRepository in objs
    assert WideRepository not in objs
    assert check_fat_repositories(None) == []


def test_broken_settings_are_left_to_their_own_check() -> None:
    with override_settings(DBPATTERNS={"REPOSITORIES": {"FAT_REPOSITORY_METHODS": "few"}}):
        assert check_fat_repositories(None) == []


@contextmanager
def bound(interface: Any) -> Iterator[None]:
    services.bind(interface)
    try:
        yield
    finally:
        services._shared._bindings.pop(interface)


@pytest.mark.django_db(databases="__all__")  # Django 6.1 asks SQLite about JSON
def test_check_reports_a_service_that_cannot_be_built() -> None:
    class Mute:
        def __init__(self, voice) -> None:  # type: ignore[no-untyped-def]
            """Say no type."""

    call_command("check")
    with bound(Mute), pytest.raises(SystemCheckError, match=r"dbpatterns\.E002.*Mute"):
        call_command("check")
