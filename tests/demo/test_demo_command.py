"""`make demo`'s command, as a new user meets it: run, run again, with a typo, without DEBUG."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from signal import SIGTERM

import pytest
from django.core.management import CommandError, call_command
from django.db import connections
from django.db.models import signals
from django.test import override_settings

from dbpatterns.errors import UsageError
from dbpatterns.sharding import shard_for, shards
from demo.banking.importing import BankImport
from demo.banking.models import Customer
from demo.banking.sample import sample_bank
from demo.blog.models import Post
from demo.web.log_ins import make_log_ins

SERVERS = ("DATABASE_URL", "DBPATTERNS_SHARD_URLS", "REDIS_URL", "DJANGO_SETTINGS_MODULE")

everywhere = pytest.mark.django_db(databases="__all__")
EXPORT = """<rss xmlns:wp="http://wordpress.org/export/1.2/"
 xmlns:dc="http://purl.org/dc/elements/1.1/"><channel><wp:wxr_version>1.2</wp:wxr_version>
<item><wp:post_type>post</wp:post_type><wp:status>publish</wp:status><wp:post_id>1</wp:post_id>
<wp:post_date>2026-01-01 09:00:00</wp:post_date><dc:creator>ada</dc:creator></item>
<item><wp:post_type>page</wp:post_type></item></channel></rss>"""
BERKA = {
    "district": "\t".join(["1", "Prague", *["0"] * 14]),
    "client": "1\t1990-12-13\tF\t1",
    "account": "1\t1\t2015-03-24\tM",
    "disp": "1\t1\t1\tO",
    "order": "1\t1\tYZ\t87144583\t245.20\tHH",
}


def run(tmp_path: Path, *args: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name not in SERVERS}
    return subprocess.run(
        [sys.executable, "manage.py", *args],
        env=clean | {"DEMO_DATA_DIR": str(tmp_path)} | environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.once
def test_the_demo_runs_and_running_it_again_breaks_nothing(tmp_path: Path) -> None:
    first = run(tmp_path, "demo", "--format=json", "--date=2026-12-01")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert "0 faults" in told["standing_orders"]
    assert "240 customers" in told["bank"]
    assert told["staff"] == "log in as staff / shards-and-ledgers"
    again = run(tmp_path, "demo", "--format=json", "--date=2026-12-01")
    assert again.returncode == 0, again.stderr
    assert json.loads(again.stdout)["standing_orders"].startswith("0 due, 0 paid, 0 refused")
    shown = run(tmp_path, "demo", "--date=2026-12-02")
    assert shown.returncode == 0, shown.stderr
    assert max(len(line) for line in shown.stdout.splitlines()) < 120


@pytest.mark.once
def test_no_log_in_is_made_outside_debug(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        "demo",
        "--format=json",
        DJANGO_DEBUG="0",
        DJANGO_SECRET_KEY="k" * 50,
        DJANGO_ALLOWED_HOSTS="example.org",
    )
    assert done.returncode == 0, done.stderr
    assert not {"staff", "customer"} & json.loads(done.stdout).keys()
    assert "shards-and-ledgers" not in done.stdout


@override_settings(DEBUG=False)
def test_making_log_ins_outside_debug_is_refused() -> None:
    with pytest.raises(UsageError, match="DEBUG only"):
        make_log_ins("secret")


@pytest.mark.once
def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    done = run(tmp_path, "demo", "--data", str(tmp_path / "nowhere"))
    assert done.returncode == 2
    assert "There is no folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder of the real files' shape: one post, one customer with one order."""
    (tmp_path / "wordpress").mkdir()
    (tmp_path / "wordpress" / "themeunittestdata.wordpress.xml").write_text(EXPORT)
    (tmp_path / "berka").mkdir()
    for name, line in BERKA.items():
        (tmp_path / "berka" / f"fin_{name}.tsv").write_text(f"{line}\n")
    return tmp_path


@everywhere
def test_a_folder_of_data_becomes_a_table_of_short_lines(data: Path) -> None:
    output = StringIO()
    call_command("demo", "--data", str(data), stdout=output, stderr=StringIO())
    told = re.sub(r"\(\d+\.\d s\)", "(… s)", output.getvalue()).splitlines()[1:4]
    assert told == [
        "Blog             1 authors, 0 categories, 0 tags, 1 posts, 0 comments, 1 skipped, "
        "0 problems (… s)",
        "Bank             1 customers, 1 accounts, 1 standing orders, 0 already there (… s)",
        "Standing orders  1 due, 1 paid, 0 refused, 4 entries proven, "
        f"{2 + len(shards())} balances proven, 0 faults (… s)",
    ]


@everywhere
def test_data_with_a_fault_ends_the_demo_and_shows_it(data: Path) -> None:
    (data / "berka" / "fin_order.tsv").write_text("1\t1\tYZ\t8\t-1\tHH\n")
    output = StringIO()
    with pytest.raises(CommandError, match="Nothing was imported") as caught:
        call_command("demo", "--data", str(data), stdout=output, stderr=StringIO())
    assert caught.value.returncode == 1
    assert output.getvalue() == (
        "Problems  1\n  fin_order.tsv line 1: -1 is negative: an amount is above zero.\n"
    )


@everywhere
def test_sample_accounts_that_are_somebody_else_s_are_refused() -> None:
    bank = sample_bank()
    other = bank.customers[-1].number
    first = replace(bank.accounts[0], customer=other)
    BankImport(replace(bank, accounts=[first], orders=[])).run()
    with pytest.raises(CommandError, match=f"belongs to customer {other} here") as caught:
        call_command("demo", stdout=StringIO(), stderr=StringIO())
    assert caught.value.returncode == 1


@everywhere
def test_a_signal_ends_the_demo_after_the_step_it_is_in() -> None:
    def stop(**_: object) -> None:
        signals.pre_migrate.disconnect(stop)
        os.kill(os.getpid(), SIGTERM)

    signals.pre_migrate.connect(stop)
    with pytest.raises(CommandError, match="run it again to go on") as caught:
        call_command("demo", stdout=StringIO(), stderr=StringIO())
    assert caught.value.returncode == 3
    assert not Post.objects.exists()


@everywhere
def test_a_signal_ends_the_demo_after_the_batch_it_is_in() -> None:
    def stop(execute: Callable[..., object], sql: str, *arguments: object) -> object:
        if sql.startswith('INSERT INTO "banking_customer"'):
            os.kill(os.getpid(), SIGTERM)
        return execute(sql, *arguments)

    with (
        connections[shards()[0]].execute_wrapper(stop),
        pytest.raises(CommandError, match="run it again") as caught,
    ):
        call_command("demo", stdout=StringIO(), stderr=StringIO())
    assert caught.value.returncode == 3
    assert [alias for alias in shards() if Customer.objects.using(alias).exists()] == ["shard_0"]


@everywhere
@override_settings(DEBUG=True)
def test_log_ins_tell_what_there_is_to_try() -> None:
    assert list(make_log_ins("secret")) == ["staff"]
    data = sample_bank()
    first, second = (
        next(each for each in data.accounts if shard_for(each.customer) == alias)
        for alias in shards()[:2]
    )
    BankImport(replace(data, accounts=[first], orders=[])).run()
    assert list(make_log_ins("secret")) == ["staff", "customer"]
    BankImport(replace(data, accounts=[first, second], orders=[])).run()
    assert list(make_log_ins("secret")) == ["staff", "customer", "and"]
    BankImport(data).run()
    assert list(make_log_ins("secret")) == ["staff", "customer", "try", "and"]
