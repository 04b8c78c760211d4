"""Writing a WordPress export into the blog: whole posts, in batches, as often as one likes.

Posts and comments are known by the number they had in WordPress (`source_id`), authors by login,
categories and tags by slug. What already agrees with the file is not touched; what the file no
longer has stays.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import BinaryIO

from django.db import DataError, IntegrityError, transaction

from demo.blog.importing_names import NameImport, Survey
from demo.blog.importing_posts import PostBatch
from demo.blog.wxr import read_export
from demo.blog.wxr_records import WxrPost

__all__ = ["BlogImport"]


@dataclass(slots=True)
class BlogImport:
    """One import and what it has committed so far.

    Needs a survey of the same file, which has proved that the file is readable to its end, so
    that a broken one writes nothing.
    """

    source: BinaryIO
    name: str
    survey: Survey
    batch_size: int = 500
    """Posts per transaction, and in memory."""
    dry_run: bool = False
    advance: Callable[[int], object] = lambda posts: None
    """Called with the number of posts a batch is done with."""
    must_stop: Callable[[], bool] = lambda: False
    """Asked before each batch."""
    names: NameImport = field(init=False)
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """By table, how many rows were created, updated and unchanged."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Items and comments with no place here, by type."""
    problems: list[str] = field(default_factory=list)
    stopped: bool = False

    def __post_init__(self) -> None:
        self.names = NameImport(self.survey, dry_run=self.dry_run)
        for table in ("authors", "categories", "tags", "posts", "comments"):
            self.counts[table] = Counter(created=0, updated=0, unchanged=0)

    def run(self) -> None:
        """Write the names, then the posts; a transaction for each batch of posts.

        A post that the database refuses breaks its batch: the batch is undone and its posts are
        written again, each in a transaction of its own, so that only the bad one is missing.
        Raises: BadExport: the file changed since its survey; committed batches stay.
        """
        self.problems.extend(self.survey.problems)
        self.skipped.update(self.survey.skipped)
        self.names.run()
        self.problems.extend(self.names.problems)
        for table, counts in self.names.counts.items():
            self.counts[table].update(counts)
        for batch in self._batches():
            if self.must_stop():
                self.stopped = True
                return
            self._write(batch)
            self.advance(len(batch))

    def _batches(self) -> Iterator[list[WxrPost]]:
        self.source.seek(0)
        posts = (each for each in read_export(self.source, self.name) if isinstance(each, WxrPost))
        while batch := list(islice(posts, self.batch_size)):
            yield batch

    def _write(self, records: Sequence[WxrPost]) -> None:
        batch = PostBatch(records, self.names, dry_run=self.dry_run)
        try:
            with transaction.atomic():
                batch.run()
        except (DataError, IntegrityError) as error:
            if len(records) == 1:
                reason = str(error).splitlines()[0]
                self.problems.append(f"{records[0].where}: the database refused it ({reason}).")
            else:
                for record in records:
                    self._write([record])
            return
        self.counts["posts"].update(batch.posts)
        self.counts["comments"].update(batch.comments)
        self.skipped.update(batch.skipped)
        self.problems.extend(batch.problems)
