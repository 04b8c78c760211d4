"""The bank's import: everything checked before anything is written, killed and run again."""

import json
from collections.abc import Callable
from io import StringIO
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import DatabaseError

from dbpatterns.commands import OperationalCommand
from dbpatterns.sharding import shard_for, shards
from demo.banking.berka import BadBankFiles, BankData, read_bank_files
from demo.banking.books import prove_books
from demo.banking.importing import BankImport, opening_balance
from demo.banking.models import Account, Customer, Entry, StandingOrder, Transfer
from demo.banking.sample import sample_bank
from tests.demo.bank_support import Crash, actual_books, at_once, crash_at_statement, empty_bank

pytestmark = pytest.mark.django_db(databases="__all__")
REAL_FILES = Path(__file__).resolve().parents[3] / "shared" / "data" / "berka"

DISTRICT = "\t".join(["1", "Prague", *["0"] * 14])
FILES = {
    "fin_district": [DISTRICT],
    "fin_client": ["1\t1990-12-13\tF\t1", "2\t1965-02-04\tM\t1", "3\t1960-10-09\tF\t1"],
    "fin_account": ["1\t1\t2015-03-24\tM", "2\t1\t2013-02-26\tW"],
    "fin_disp": ["1\t1\t1\tO", "2\t2\t2\tO", "3\t3\t2\tD"],
    "fin_order": ["1\t1\tYZ\t87144583\t245.20\tHH", "2\t2\tST\t89597016\t.10\t  "],
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, lines in FILES.items():
        (tmp_path / f"{name}.tsv").write_text("".join(f"{line}\n" for line in lines))
    return tmp_path


def run_command(*args: object) -> dict[str, object]:
    output = StringIO()
    try:
        call_command(
            "import_bank", *map(str, args), format="json", stdout=output, stderr=StringIO()
        )
    finally:
        facts: dict[str, object] = json.loads(output.getvalue() or "{}")
        run_command.facts = facts  # type: ignore[attr-defined]
    return facts


def rows() -> dict[str, list[tuple[object, ...]]]:
    """Everything the import writes, without the ids it draws."""
    return {
        alias: [
            *Customer.objects.using(alias).order_by("pk").values_list(),
            *Account.objects.using(alias)
            .order_by("number")
            .values_list("number", "kind", "customer", "bank_code", "ledger__balance", "opened_on"),
            *Transfer.objects.using(alias)
            .order_by("idempotency_key")
            .values_list("idempotency_key", "customer", "payer__number", "payee__number", "amount"),
            *Entry.objects.using(alias)
            .order_by("account__number", "amount")
            .values_list("account__number", "amount"),
            *StandingOrder.objects.using(alias)
            .order_by("order_number")
            .values_list("order_number", "customer", "account__number", "bank_code", "amount"),
        ]
        for alias in shards()
    }


def test_what_is_imported_lies_on_its_customer_s_shard(folder: Path) -> None:
    facts = run_command(folder)
    assert facts == {
        "customers": 3,
        "accounts": 2,
        "standing_orders": 2,
        "already_there": 0,
        "skipped_disponents": 1,
    }
    for alias in shards():
        for customer in Customer.objects.using(alias):
            assert shard_for(customer.pk) == alias
        for account in Account.objects.using(alias).filter(kind="customer"):
            assert account.balance == opening_balance(account.number)
    order = StandingOrder.objects.using(shard_for(1)).get(order_number=1)
    assert (order.amount, order.bank_code, order.category) == (24520, "YZ", "HH")
    assert not [fault for proof in prove_books().values() for fault in proof.faults]


def test_each_other_bank_has_one_clearing_account_per_shard() -> None:
    BankImport(sample_bank(60)).run()
    BankImport(sample_bank(90)).run()
    for alias in shards():
        banks = Account.objects.using(alias).filter(kind="clearing").values_list("bank_code")
        assert len(set(banks)) == len(banks) > 5


def test_a_second_import_changes_nothing(folder: Path) -> None:
    run_command(folder)
    before = rows()
    assert run_command(folder)["already_there"] == 7
    assert rows() == before


def test_a_dry_run_checks_and_writes_nothing(folder: Path) -> None:
    before = rows()
    assert run_command(folder, "--dry-run")["standing_orders"] == 2
    assert rows() == before


def test_windows_line_ends_are_read(folder: Path) -> None:
    text = (folder / "fin_order.tsv").read_text()
    (folder / "fin_order.tsv").write_text(text, newline="\r\n")
    assert run_command(folder)["standing_orders"] == 2


@pytest.mark.parametrize(
    ("table", "line", "text", "problem"),
    [
        ("fin_order", 1, "1\t1\tYZ\t8\t-5.00\tHH", "line 1: -5.00 is negative"),
        ("fin_order", 2, "2\t2\tST\t8\t1.005\tHH", "line 2: 1.005 is over-precise"),
        ("fin_order", 2, "2\t2\tST\t8\t0\tHH", "line 2: 0 is zero"),
        ("fin_order", 2, "2\t9\tST\t8\t1\tHH", "line 2: account 9 is not in fin_account.tsv"),
        ("fin_order", 2, "1\t2\tST\t8\t1\tHH", "line 2: number 1 stands in line 1 already"),
        ("fin_order", 2, "2\t2\tST\t8\t1.", "line 2: 5 of 6 columns"),
        ("fin_order", 1, "1\t1", "line 1: 2 of 6 columns."),
        ("fin_order", 2, "2\t2\tst\t8\t1\tHH", "line 2: 'st' is no bank code"),
        ("fin_order", 2, "2\t2\tST\tx\t1\tHH", "line 2: 'x' is no account number"),
        ("fin_order", 2, "2\t2\tST\t8\t1\tXX", "line 2: 'XX' is no category"),
        ("fin_district", 1, DISTRICT.replace("ag", "\0"), "line 1: 'Pr\\x00ue' is no name"),
        ("fin_client", 1, "1\t1990-02-30\tF\t1", "line 1: '1990-02-30' is no date"),
        ("fin_client", 1, "1\t13.12.1990\tF\t1", "line 1: '13.12.1990' is no date"),
        ("fin_client", 1, "1\t1990-12-13\tX\t1", "line 1: 'X' is no sex"),
        ("fin_client", 1, "1\t1990-12-13\tF\t77", "line 1: district 77 is not in"),
        ("fin_client", 1, "-1\t1990-12-13\tF\t1", "line 1: '-1' is no number"),
        ("fin_account", 1, "x\t1\t2015-03-24\tM", "line 1: 'x' is no number"),
        ("fin_disp", 1, "1\t9\t1\tO", "line 1: client 9 is not in fin_client.tsv"),
        ("fin_disp", 1, "1\t1\t9\tO", "line 1: account 9 is not in fin_account.tsv"),
        ("fin_disp", 3, "3\t3\t2\tO", "line 3: account 2 has a second owner, 3"),
        ("fin_disp", 2, "2\t2\t2\tD", "account 2 of fin_account.tsv has no owner"),
    ],
)
def test_a_bad_line_is_named_and_nothing_is_written(
    folder: Path, table: str, line: int, text: str, problem: str
) -> None:
    lines = list(FILES[table])
    lines[line - 1] = text
    (folder / f"{table}.tsv").write_text("".join(f"{each}\n" for each in lines))
    with pytest.raises(CommandError, match="Nothing was imported") as caught:
        run_command(folder)
    assert caught.value.returncode == 1
    problems = run_command.facts["problems"]  # type: ignore[attr-defined]
    assert any(each.startswith(f"{table}.tsv") and problem in each for each in problems), problems
    assert not any(rows().values())


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda path: path.unlink(), "fin_order.tsv: No such file"),
        (lambda path: path.write_bytes(b""), "fin_order.tsv is empty"),
        (lambda path: path.write_text("1\t1\tYZ\t8\t1\tHH\n", "utf-16"), "line 1: not UTF-8"),
        (lambda path: path.write_bytes(b"1\t1\tYZ\t8\t1\t\xe9\n"), "line 1: not UTF-8"),
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "line 2: no line end: the file"),
        (lambda path: path.write_text("id,account\n1,2\n"), "line 1: 1 of 6 columns"),
    ],
    ids=["missing", "empty", "utf-16", "latin-1", "truncated", "another format"],
)
def test_a_bad_file_is_named_and_nothing_is_written(
    folder: Path, harm: Callable[[Path], object], problem: str
) -> None:
    harm(folder / "fin_order.tsv")
    with pytest.raises(BadBankFiles) as caught:
        read_bank_files(folder)
    assert any(problem in each for each in caught.value.problems), caught.value.problems


def test_many_problems_are_counted_and_twenty_shown(folder: Path) -> None:
    (folder / "fin_order.tsv").write_text("broken\n" * 1_000)
    with pytest.raises(BadBankFiles) as caught:
        read_bank_files(folder)
    assert len(caught.value.problems) == 21
    assert caught.value.problems[-1] == "… and 980 more."


def test_a_folder_that_is_not_there_is_wrong_usage(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match="is not a folder") as caught:
        run_command(tmp_path / "nowhere")
    assert caught.value.returncode == 2


def test_an_account_of_somebody_else_is_refused(folder: Path) -> None:
    run_command(folder)
    (folder / "fin_disp.tsv").write_text("1\t3\t1\tO\n2\t2\t2\tO\n")
    before = rows()
    with pytest.raises(CommandError, match="account 1 belongs to customer 1 here and to 3"):
        run_command(folder)
    assert rows() == before


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_an_import_killed_at_any_statement_ends_the_same_when_run_again() -> None:
    """Every statement of a small import is cut off once; each time the next run completes it."""
    data = sample_bank(6)
    for statement in range(1, 200):
        try:
            with crash_at_statement(statement):
                BankImport(data, batch_size=3).run()
        except Crash:
            proofs = prove_books()
            assert not [fault for proof in proofs.values() for fault in proof.faults], statement
        else:
            break
    assert statement > 20
    crashed_often = rows()
    empty_bank()
    BankImport(data).run()
    assert rows() == crashed_often


def test_an_import_asked_to_stop_ends_after_a_batch_and_goes_on_later() -> None:
    data = sample_bank(30)
    asked = iter([False, False, True])
    first = BankImport(data, batch_size=5, must_stop=lambda: next(asked))
    first.run()
    assert first.stopped
    assert 0 < first.customers + first.accounts <= 10
    assert first.already_there == 0
    second = BankImport(data)
    second.run()
    assert second.already_there == first.customers + first.accounts
    assert first.customers + second.customers == len(data.customers)
    assert first.accounts + second.accounts == len(data.accounts)
    assert second.orders == len(data.orders)


def test_an_import_that_stops_early_says_how_much_it_found_in_place(folder: Path) -> None:
    run_command(folder)
    (folder / "fin_order.tsv").write_text(
        "7\t1\tYZ\t8\t1\tHH\n" + "\n".join(FILES["fin_order"]) + "\n"
    )
    stopped = BankImport(read_bank_files(folder), must_stop=lambda: True)
    stopped.run()
    assert stopped.stopped
    assert (stopped.orders, stopped.already_there) == (0, 7)


def test_the_command_that_stops_early_exits_3(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OperationalCommand, "must_stop", lambda command: True)
    with pytest.raises(CommandError, match="run it again to go on from here") as caught:
        run_command(folder)
    assert caught.value.returncode == 3
    assert not Customer.objects.using(shard_for(1)).exists()


@pytest.mark.django_db(databases="__all__", transaction=True)
def test_two_imports_at_once_end_in_one_bank() -> None:
    data = sample_bank(40)
    outcomes = at_once(*[lambda: BankImport(data, batch_size=5).run()] * 2)
    assert all(each is None or isinstance(each, DatabaseError) for each in outcomes), outcomes
    BankImport(data).run()
    assert actual_books() == {
        each.number: (opening_balance(each.number), []) for each in data.accounts
    }
    assert not [fault for proof in prove_books().values() for fault in proof.faults]


def test_progress_counts_every_row_once(folder: Path) -> None:
    data = sample_bank(30)
    total = len(data.customers) + len(data.accounts) + len(data.orders)
    for _ in range(2):
        counted: list[int] = []
        BankImport(data, batch_size=7, advance=counted.append).run()
        assert sum(counted) == total


def test_the_sample_is_always_the_same_and_apart_from_the_real_numbers() -> None:
    one, two = sample_bank(20), sample_bank(20)
    assert one == two
    assert one != sample_bank(20, seed=2)
    assert min(each.number for each in one.customers) > 9_000_000


def test_opening_balances_are_spread_over_their_range() -> None:
    balances = [opening_balance(str(number)) for number in range(1, 5_000)]
    assert min(balances) >= 10_000
    assert max(balances) < 510_000
    assert len(set(balances)) > 4_900


@pytest.mark.skipif(
    not REAL_FILES.exists(), reason="the real bank files are not beside this checkout"
)
def test_the_real_files_are_read_whole() -> None:
    data: BankData = read_bank_files(REAL_FILES)
    assert (len(data.customers), len(data.accounts), len(data.orders)) == (5_369, 4_500, 6_471)
    assert data.disponents == 869
    assert len({order.bank_code for order in data.orders}) == 13
    with (REAL_FILES / "fin_order.tsv").open() as lines:  # an independent reading
        cents = sum(round(float(line.split("\t")[4]) * 100) for line in lines)
    assert sum(order.amount for order in data.orders) == cents
