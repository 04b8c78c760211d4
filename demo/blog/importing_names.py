"""The first half of a blog import: look through the whole file, then write its names.

Authors, categories and tags are few, so they are written together before any post. Posts name
authors and terms that the file never lists; those are made too, from what the posts say.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import BinaryIO, TypeVar

from django.core.exceptions import ValidationError
from django.db import transaction

from demo.blog.models import Author, Category, Tag
from demo.blog.wxr import read_export
from demo.blog.wxr_records import WxrAuthor, WxrPost, WxrSkipped, WxrTerm

__all__ = ["NameImport", "Survey", "sentence_of"]

Row = TypeVar("Row", Author, Category, Tag)


@dataclass(slots=True)
class Survey:
    """What a file holds besides its posts, and how many of those."""

    posts: int = 0
    authors: dict[str, WxrAuthor] = field(default_factory=dict)
    categories: dict[str, WxrTerm] = field(default_factory=dict)
    tags: dict[str, WxrTerm] = field(default_factory=dict)
    unlisted: dict[str, dict[str, str]] = field(
        default_factory=lambda: {"author": {}, "category": {}, "tag": {}}
    )
    """Names by login or slug that only posts mention."""
    skipped: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)

    @classmethod
    def of(cls, source: BinaryIO, name: str) -> "Survey":
        """Read the whole file and write nothing; proves that it is readable to its end.

        Memory: one item and every author and term. Raises: BadExport.
        """
        survey = cls()
        source.seek(0)
        for record in read_export(source, name):
            match record:
                case WxrAuthor():
                    survey.authors[record.login] = record
                case WxrTerm():
                    listed = survey.tags if record.taxonomy == "tag" else survey.categories
                    listed[record.slug] = record
                case WxrPost():
                    survey.posts += 1
                    survey.unlisted["author"].setdefault(record.author, record.author)
                    for term in record.terms:
                        survey.unlisted[term.taxonomy].setdefault(term.slug, term.name)
                case WxrSkipped():
                    survey.skipped[record.kind] += 1
                case _:
                    survey.problems.append(str(record))
        for key in survey.authors:
            survey.unlisted["author"].pop(key, None)
        for key in survey.categories:
            survey.unlisted["category"].pop(key, None)
        for key in survey.tags:
            survey.unlisted["tag"].pop(key, None)
        return survey


@dataclass(slots=True)
class NameImport:
    """Writes authors, categories and tags; afterwards knows their ids."""

    survey: Survey
    dry_run: bool = False
    authors: dict[str, Author] = field(default_factory=dict)
    categories: dict[str, Category] = field(default_factory=dict)
    tags: dict[str, Tag] = field(default_factory=dict)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    made_from_posts: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    _touched: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Create what is missing and rename what the file calls otherwise.

        One transaction of at most eleven statements per thousand names. What the file does not
        list keeps its name and its parent.
        """
        survey = self.survey
        with transaction.atomic():
            self.authors = self._write("author", Author, "login", survey.authors)
            self.tags = self._write("tag", Tag, "slug", survey.tags)
            self.categories = self._write("category", Category, "slug", survey.categories)
            self._write_parents()

    def _write(
        self, kind: str, model: type[Row], key: str, listed: Mapping[str, WxrAuthor | WxrTerm]
    ) -> dict[str, Row]:
        unlisted = self.survey.unlisted[kind]
        names = {**unlisted, **{each: record.name for each, record in listed.items()}}
        rows: dict[str, Row] = model._default_manager.in_bulk(list(names), field_name=key)
        counts = self.counts[str(model._meta.verbose_name_plural)] = Counter(
            created=0, updated=0, unchanged=0
        )
        created: list[Row] = []
        updated: list[Row] = []
        for value, name in names.items():
            row = rows.get(value) or model(**{key: value})
            if row.pk and (value in unlisted or row.name == name):
                counts["unchanged"] += 1
                continue
            before, row.name = row.name, name
            try:
                row.clean_fields()
            except ValidationError as error:
                where = listed[value].where if value in listed else f'{kind.title()} "{value}"'
                self.problems.append(f"{where}: {sentence_of(error)}")
                row.name = before
                continue
            (updated if row.pk else created).append(row)
            rows[value] = row
            if kind == "category":
                self._touched.add(value)
            if value in unlisted:
                self.made_from_posts.append(f"{kind} {value}")
        counts["created"], counts["updated"] = len(created), len(updated)
        if not self.dry_run:
            model._default_manager.bulk_create(created)
            model._default_manager.bulk_update(updated, ["name"])
        return rows

    def _write_parents(self) -> None:
        rows = {**Category.objects.in_bulk(field_name="slug"), **self.categories}
        slugs = {row.pk: slug for slug, row in rows.items() if row.pk}
        before = {slug: slugs.get(row.parent_id or 0, "") for slug, row in rows.items()}
        listed = {slug: each for slug, each in self.survey.categories.items() if slug in rows}
        after = {**before, **{slug: each.parent for slug, each in listed.items()}}
        for slug, record in listed.items():
            if reason := _wrong_parent(slug, after):
                self.problems.append(f'{record.where}, "{slug}": {reason}')
                after[slug] = ""
        moved = [slug for slug in listed if before[slug] != after[slug]]
        for slug in moved:
            rows[slug].parent_id = rows[after[slug]].pk if after[slug] else None
            if slug not in self._touched:
                self.counts["categories"].update(updated=1, unchanged=-1)
        if not self.dry_run:
            Category.objects.bulk_update([rows[slug] for slug in moved], ["parent"])


def _wrong_parent(slug: str, parents: Mapping[str, str]) -> str:
    if parents[slug] and parents[slug] not in parents:
        return f'its parent "{parents[slug]}" is not there; it stands at the top.'
    passed: set[str] = set()
    above = parents[slug]
    while above and above not in passed:
        if above == slug:
            return "its parents form a circle; it stands at the top."
        passed.add(above)
        above = parents.get(above, "")
    return ""


def sentence_of(error: ValidationError) -> str:
    """Return what is wrong, and with which field, on one line."""
    if not hasattr(error, "error_dict"):
        return " ".join(error.messages)
    return " ".join(f"{name}: {' '.join(each)}" for name, each in error.message_dict.items())
