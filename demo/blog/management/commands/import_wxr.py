"""`manage.py import_wxr`: bring a WordPress blog here."""

from pathlib import Path
from typing import Any, BinaryIO

from django.core.management.base import CommandError, CommandParser

from dbpatterns.commands import Exit, OperationalCommand, Report
from demo.blog.importing import BlogImport
from demo.blog.importing_names import Survey
from demo.blog.xml_stream import BadExport


class Command(OperationalCommand):
    """Imports posts, their terms and comments; run it again and only what changed is written."""

    help = "Import authors, categories, tags, posts and comments from a WordPress export (WXR)."
    common_options = ("--dry-run", "--batch-size", "--max-seconds")

    def add_arguments(self, parser: CommandParser) -> None:
        """Add the file."""
        parser.add_argument("file", type=Path, help="What WordPress calls Tools, Export.")
        super().add_arguments(parser)

    def operate(self, **options: Any) -> Report:
        """Look through the file, then write it; exit 1 when something could not be imported."""
        path: Path = options["file"]
        try:
            if path.exists() and not path.is_file():
                raise CommandError(f"{path} is not a regular file.", returncode=Exit.USAGE)
            source = path.open("rb")
        except OSError as error:
            raise CommandError(
                f"{path} cannot be read: {error.strerror}.", returncode=Exit.USAGE
            ) from error
        with source:
            try:
                return self._import(source, **options)
            except BadExport as error:
                raise CommandError(str(error), returncode=Exit.FINDINGS) from error

    def _import(self, source: BinaryIO, **options: Any) -> Report:
        name = str(options["file"])
        survey = Survey.of(source, name)
        with self.progress(survey.posts, "Importing posts") as progress:
            work = BlogImport(
                source,
                name,
                survey,
                batch_size=options["batch_size"],
                dry_run=options["dry_run"],
                advance=progress.advance,
                must_stop=self.must_stop,
            )
            work.run()
        report_exit, reason = Exit.DONE, ""
        if work.stopped:
            report_exit = Exit.STOPPED
            reason = "Stopped before the end of the file; the same command does the rest."
        elif work.problems:
            report_exit = Exit.FINDINGS
            reason = f"{len(work.problems)} of {name}'s entries could not be imported in full."
        return Report(
            {
                "file": name,
                "dry_run": options["dry_run"],
                **{table: dict(counts) for table, counts in work.counts.items()},
                "skipped": dict(sorted(work.skipped.items())),
                "made_from_posts": work.names.made_from_posts,
                "problems": work.problems,
            },
            report_exit,
            reason,
        )
