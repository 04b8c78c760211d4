"""`RepositoryContract`: what every repository promises, as a test class to run on your own.

    @pytest.mark.django_db
    class TestPostRepository(RepositoryContract[Post]):
        column, values, unique = "title", ("One", "Two"), "slug"

        def make_repository(self) -> PostRepository:
            return PostRepository()

        def make_object(self, number: int) -> Post:
            return Post(slug=f"post-{number}", title="One", author=self.author)

    class TestPostRepositoryInMemory(TestPostRepository):
        def make_repository(self) -> PostRepository:
            return PostRepository.in_memory()

The same tests hold a fake to what the database does, which is the point of having them.
"""

import inspect
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, TypeVar

import pytest
from django.db import IntegrityError
from django.db.models import Model, Q

from dbpatterns.errors import UsageError
from dbpatterns.repositories.base import BaseRepository
from dbpatterns.repositories.errors import (
    DuplicateKeys,
    EmptyCriteria,
    InvalidCursor,
    UnknownField,
    UnsavedObject,
    VanishedRows,
)
from dbpatterns.repositories.specifications import Spec

__all__ = ["RepositoryContract"]

M = TypeVar("M", bound=Model)


class RepositoryContract(Generic[M]):
    """The promises; subclass it as `Test…` and say how to make a repository and an object."""

    column: ClassVar[str]
    """A column of the model that may take either of `values` in every row."""
    values: ClassVar[tuple[Any, Any]]
    unique: ClassVar[str]
    """A unique column, which `make_object` fills differently for each number."""

    def make_repository(self) -> BaseRepository[M, Any]:
        """Return an empty repository; called once a test."""
        raise NotImplementedError

    def make_object(self, number: int) -> M:
        """Return a valid object that is not saved, with the first of `values`."""
        raise NotImplementedError

    @pytest.fixture
    def repository(self) -> BaseRepository[M, Any]:
        """The repository of the test."""
        return self.make_repository()

    @pytest.fixture
    def saved(self, repository: BaseRepository[M, Any]) -> Sequence[M]:
        """Six saved objects; the last two have the second value."""
        objs = [self.make_object(number) for number in range(6)]
        for obj in objs[4:]:
            setattr(obj, self.column, self.values[1])
        return repository.save_many(objs)

    @property
    def first(self) -> dict[str, Any]:
        """Criteria that four of the six meet."""
        return {self.column: self.values[0]}

    @property
    def second(self) -> dict[str, Any]:
        """Criteria that the other two meet."""
        return {self.column: self.values[1]}

    # Reading

    def test_an_empty_repository_has_nothing(self, repository: BaseRepository[M, Any]) -> None:
        assert repository.find_all() == []
        assert repository.find_by() == []
        assert repository.count() == 0
        assert not repository.exists()
        assert repository.find_one_by() is None
        assert list(repository.stream()) == []
        page = repository.page(total=True)
        assert (page.object_list, page.total, page.has_other_pages()) == ([], 0, False)

    def test_what_is_saved_is_found(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        for obj in saved:
            found = repository.get_by_id(obj.pk)
            assert found == obj
            assert found is not obj
            assert repository.find_by_id(obj.pk) == obj
            assert repository.find_one_by(pk=obj.pk) == obj
            assert getattr(found, self.column) == getattr(obj, self.column)
        assert {each.pk for each in repository.find_all()} == {each.pk for each in saved}

    def test_what_is_not_there_is_not_found(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        gone = saved[0].pk
        repository.delete(gone)
        assert repository.find_by_id(gone) is None
        assert repository.find_by_ids([gone]) == {}
        model: Any = repository.model
        with pytest.raises(model.DoesNotExist):
            repository.get_by_id(gone)
        with pytest.raises(model.DoesNotExist):
            repository.find_by_ids([saved[1].pk, gone], missing="raise")

    def test_ids_are_found_in_the_order_given(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        wanted = [saved[4].pk, saved[0].pk, saved[2].pk, saved[4].pk]
        assert list(repository.find_by_ids(wanted)) == wanted[:3]

    def test_criteria_choose(self, repository: BaseRepository[M, Any], saved: Sequence[M]) -> None:
        spec: Spec[M] = Spec("second", **self.second)
        two = {each.pk for each in saved[4:]}
        assert {each.pk for each in repository.find_by(**self.second)} == two
        assert {each.pk for each in repository.find_by(spec)} == two
        assert {each.pk for each in repository.find_by(Q(**self.second))} == two
        assert {each.pk for each in repository.find_by(~Q(**self.first))} == two
        assert {each.pk for each in repository.stream(spec)} == two
        assert repository.find_by(spec, **self.first) == []
        assert repository.find_by(spec & ~spec) == []
        assert len(repository.find_by(spec | Q(**self.first))) == 6
        assert (repository.count(spec), repository.count(**self.first)) == (2, 4)
        assert repository.exists(spec)
        assert not repository.exists(spec & ~spec)

    def test_a_spec_agrees_with_the_repository(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        spec: Spec[M] = Spec("second", **self.second)
        for obj in repository.find_all():
            assert spec.is_satisfied_by(obj) == repository.exists(spec, pk=obj.pk)

    def test_order_and_limit(self, repository: BaseRepository[M, Any], saved: Sequence[M]) -> None:
        keys = sorted(each.pk for each in saved)
        assert [each.pk for each in repository.find_by(order_by=["pk"])] == keys
        assert [each.pk for each in repository.find_by(order_by=["-pk"], limit=2)] == keys[:3:-1]
        assert [each.pk for each in repository.find_all(order_by=["-pk"], limit=1)] == keys[-1:]
        assert len(repository.find_all(limit="all")) == 6
        assert repository.find_by(limit=0) == []

    def test_one_of_two_is_refused(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        model: Any = repository.model
        with pytest.raises(model.MultipleObjectsReturned):
            repository.find_one_by(**self.second)

    def test_what_comes_back_is_a_copy(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        found = repository.get_by_id(saved[0].pk)
        setattr(found, self.column, self.values[1])
        assert getattr(repository.get_by_id(saved[0].pk), self.column) == self.values[0]
        setattr(saved[0], self.column, self.values[1])
        assert getattr(repository.get_by_id(saved[0].pk), self.column) == self.values[0]

    # Pages

    @pytest.mark.parametrize("size", [1, 2, 3, 6, 7])
    @pytest.mark.parametrize("descending", [False, True])
    def test_pages_are_the_whole_both_ways(
        self,
        repository: BaseRepository[M, Any],
        saved: Sequence[M],
        size: int,
        descending: bool,
    ) -> None:
        order = [f"-{self.column}" if descending else self.column]
        by_key = [*order, "-pk" if descending else "pk"]
        page, seen = repository.page(size=size, order_by=order), []
        seen += page.object_list
        while page.has_next():
            page = repository.page(size=size, order_by=order, cursor=page.next_cursor)
            seen += page.object_list
        assert seen == repository.find_by(order_by=by_key)
        back = page.object_list
        while page.has_previous():
            page = repository.page(size=size, order_by=order, cursor=page.previous_cursor)
            back = [*page.object_list, *back]
        assert back == seen

    def test_a_page_knows_its_total_when_asked(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        assert repository.page(size=2).total is None
        assert repository.page(size=2, total=True, **self.first).total == 4

    def test_a_foreign_cursor_is_refused(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        cursor = repository.page(size=2, order_by=["pk"]).next_cursor
        assert cursor is not None
        with pytest.raises(InvalidCursor):
            repository.page(cursor=f"{cursor}x", order_by=["pk"])
        with pytest.raises(InvalidCursor):
            repository.page(cursor=cursor, order_by=["-pk"])

    def test_a_page_is_bounded(self, repository: BaseRepository[M, Any]) -> None:
        with pytest.raises(UsageError):
            repository.page(size=0)
        with pytest.raises(UsageError):
            repository.page(size=10**6)

    # Writing

    def test_saving_updates(self, repository: BaseRepository[M, Any], saved: Sequence[M]) -> None:
        setattr(saved[0], self.column, self.values[1])
        assert repository.save(saved[0]) is saved[0]
        assert repository.count(**self.second) == 3
        assert repository.count() == 6

    def test_saving_some_columns_leaves_the_others(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        setattr(saved[0], self.column, self.values[1])
        setattr(saved[0], self.unique, getattr(self.make_object(99), self.unique))
        repository.save(saved[0], update_fields=[self.column])
        found = repository.get_by_id(saved[0].pk)
        assert getattr(found, self.column) == self.values[1]
        assert getattr(found, self.unique) != getattr(saved[0], self.unique)

    def test_a_unique_value_is_taken_once(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        from django.db import transaction

        twin = self.make_object(50)
        setattr(twin, self.unique, getattr(saved[0], self.unique))
        with pytest.raises(IntegrityError), transaction.atomic():
            repository.save(twin)
        assert repository.count() == 6

    def test_saving_many_is_all_or_none(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        from django.db import transaction

        setattr(saved[0], self.column, self.values[1])
        twin = self.make_object(50)
        setattr(twin, self.unique, getattr(saved[1], self.unique))
        with pytest.raises(IntegrityError), transaction.atomic():
            repository.save_many([saved[0], self.make_object(51), twin])
        assert (repository.count(), repository.count(**self.second)) == (6, 2)

    def test_saving_many_notices_what_is_gone(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        repository.delete(saved[0].pk)
        setattr(saved[1], self.column, self.values[1])
        with pytest.raises(VanishedRows):
            repository.save_many(saved[:2])
        assert repository.count(**self.second) == 2

    def test_an_upsert_creates_and_updates(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        old, new = self.make_object(0), self.make_object(7)
        for obj in (old, new):
            setattr(obj, self.column, self.values[1])
        result = repository.upsert_many([old, new], match=[self.unique], update=[self.column])
        assert (result.created, result.updated) == ([new], [old])
        assert old.pk == saved[0].pk
        assert repository.count() == 7
        assert repository.count(**self.second) == 4

    def test_an_upsert_that_must_guess_is_refused(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        same = [self.make_object(9), self.make_object(9)]
        with pytest.raises(DuplicateKeys):
            repository.upsert_many(same, match=[self.unique], update=[self.column])
        with pytest.raises(UsageError):
            repository.upsert_many(same[:1], match=[self.unique], update=[])
        with pytest.raises(UsageError):
            repository.upsert_many(same[:1], match=[self.column], update=[self.unique])
        assert repository.count() == 6

    def test_deleting_by_object_key_and_criteria(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        key = saved[0].pk
        assert repository.delete(saved[0]) == 1
        assert repository.delete(key) == 0
        assert repository.delete(saved[1].pk) == 1
        assert repository.delete_by(**self.second) == 2
        assert repository.delete_by(**self.second) == 0
        assert repository.count() == 2
        assert repository.delete_by(allow_all=True) == 2

    def test_a_delete_without_a_target_is_refused(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        with pytest.raises(EmptyCriteria):
            repository.delete_by()
        with pytest.raises(EmptyCriteria):
            repository.delete_by(Q())
        with pytest.raises(UnsavedObject):
            repository.delete(self.make_object(9))
        assert repository.count() == 6

    # Bad input

    @pytest.mark.parametrize(
        "method", ["find_by", "find_one_by", "exists", "count", "page", "stream", "delete_by"]
    )
    def test_an_unknown_name_is_refused(
        self, repository: BaseRepository[M, Any], method: str
    ) -> None:
        for name in ("no_such_field", f"{self.column}__no_such_lookup", "_connector"):
            with pytest.raises(UnknownField):
                getattr(repository, method)(**{name: self.values[0]})

    def test_unknown_columns_are_refused(
        self, repository: BaseRepository[M, Any], saved: Sequence[M]
    ) -> None:
        with pytest.raises(UnknownField):
            repository.find_by(order_by=["no_such_field"])
        with pytest.raises(UnknownField):
            repository.find_by(load=["no_such_relation"])
        with pytest.raises(UnknownField):
            repository.save(saved[0], update_fields=["no_such_field"])
        with pytest.raises(UsageError):
            repository.find_by(limit=-1)

    def test_every_method_has_its_async_twin(self, repository: BaseRepository[M, Any]) -> None:
        for name in ("find_by_id", "find_by", "page", "save", "upsert_many", "delete_by"):
            twin = getattr(repository, f"a{name}")
            assert inspect.iscoroutinefunction(twin)
