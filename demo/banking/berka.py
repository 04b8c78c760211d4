"""Reading the Berka bank files: five tab-separated tables without headers, checked as a whole.

    fin_district.tsv  number, name, …                    (16 columns)
    fin_client.tsv    number, birth date, sex, district
    fin_account.tsv   number, district, opening date, frequency
    fin_disp.tsv      number, client, account, O(wner) or D(isponent)
    fin_order.tsv     number, account, bank, account there, amount, category

Nothing is believed: every field has a type, every number is unique and every reference is
looked up, so that what comes out can be written without a surprise half-way.
"""

import datetime
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demo.banking.money import parse_amount

__all__ = ["BadBankFiles", "BankData", "NewAccount", "NewCustomer", "NewOrder", "read_bank_files"]

SHOWN = 20
"""Problems told at once; the rest is counted."""


class BadBankFiles(Exception):
    """The files cannot be imported; `problems` says where, one line each."""

    def __init__(self, problems: Sequence[str]) -> None:
        count = f"{len(problems):,} problems, the first: " if len(problems) > 1 else ""
        super().__init__(f"{count}{problems[0].rstrip('.')}")
        self.problems = [*problems[:SHOWN]]
        if len(problems) > SHOWN:
            self.problems.append(f"… and {len(problems) - SHOWN:,} more.")


@dataclass(frozen=True, slots=True)
class NewCustomer:
    """A client of the bank."""

    number: int
    name: str
    birth_date: datetime.date
    district: str


@dataclass(frozen=True, slots=True)
class NewAccount:
    """An account and the customer who owns it."""

    number: str
    customer: int
    opened_on: datetime.date


@dataclass(frozen=True, slots=True)
class NewOrder:
    """A standing order; `amount` in minor units."""

    number: int
    account: str
    customer: int
    bank_code: str
    payee_account: str
    amount: int
    category: str


@dataclass(frozen=True, slots=True)
class BankData:
    """What an import writes, whoever made it."""

    customers: list[NewCustomer]
    accounts: list[NewAccount]
    orders: list[NewOrder]
    disponents: int = 0
    """Powers of attorney, which the demo's bank does not know; counted and left out."""


def read_bank_files(folder: Path) -> BankData:
    """Read and check all five files; the whole of them fits in memory.

    Raises: BadBankFiles: with every problem found, not only the first.
    """
    tables = _Tables(folder)
    districts = {number: name for _, (number, name) in tables.read("fin_district", _DISTRICT)}
    customers = {}
    for line, (number, born, _, district) in tables.read("fin_client", _CLIENT):
        if district not in districts:
            tables.refuse("fin_client", line, f"district {district} is not in fin_district.tsv")
        name = districts.get(district, "")
        customers[number] = NewCustomer(number, f"Customer {number}", born, name)
    opened = {number: date for _, (number, _, date, _) in tables.read("fin_account", _ACCOUNT)}
    owners: dict[int, int] = {}
    kinds: Counter[str] = Counter()
    for line, (_, client, account, kind) in tables.read("fin_disp", _DISPOSITION):
        kinds[kind] += 1
        if client not in customers:
            tables.refuse("fin_disp", line, f"client {client} is not in fin_client.tsv")
        if account not in opened:
            tables.refuse("fin_disp", line, f"account {account} is not in fin_account.tsv")
        if kind == "O" and owners.setdefault(account, client) != client:
            tables.refuse("fin_disp", line, f"account {account} has a second owner, {client}")
    for number in opened.keys() - owners.keys():
        tables.problems.append(f"fin_disp.tsv: account {number} of fin_account.tsv has no owner.")
    orders = []
    for line, (number, account, bank, payee, amount, category) in tables.read("fin_order", _ORDER):
        if account not in opened:
            tables.refuse("fin_order", line, f"account {account} is not in fin_account.tsv")
        orders.append(
            NewOrder(
                number, str(account), owners.get(account, 0), bank, payee, amount, category.strip()
            )
        )
    if tables.problems:
        raise BadBankFiles(tables.problems)
    return BankData(
        customers=list(customers.values()),
        accounts=[NewAccount(str(each), owners[each], day) for each, day in opened.items()],
        orders=orders,
        disponents=kinds["D"],
    )


Field = Callable[[str], Any]


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) == 0:
        raise ValueError(f"{text!r} is no number: write digits only, above zero")
    return int(text)


def _date(text: str) -> datetime.date:
    if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
        try:
            return datetime.date.fromisoformat(text)
        except ValueError:
            pass
    raise ValueError(f"{text!r} is no date: write YYYY-MM-DD")


def _matching(pattern: str, what: str) -> Field:
    def field(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text!r} is no {what}")
        return text

    return field


def _amount(text: str) -> int:
    try:
        return parse_amount(text)
    except ValueError as error:
        raise ValueError(str(error).rstrip(".")) from None


_DISTRICT = (_number, _matching(r"[^\x00-\x1f\x7f]{1,100}", "name of 1 to 100 characters"))
_CLIENT = (_number, _date, _matching("[FM]", "sex: F or M"), _number)
_ACCOUNT = (_number, _number, _date, _matching("[MTW]", "frequency: M, T or W"))
_DISPOSITION = (_number, _number, _number, _matching("[OD]", "disposition: O or D"))
_ORDER = (
    _number,
    _number,
    _matching("[A-Z]{2}", "bank code: two capital letters"),
    _matching("[0-9]{1,16}", "account number: 1 to 16 digits"),
    _amount,
    _matching(" *|HH|IN|LE|LO", "category: HH, IN, LE, LO or blank"),
)
_WIDTHS = {"fin_district": 16, "fin_client": 4, "fin_account": 4, "fin_disp": 4, "fin_order": 6}


class _Tables:
    """The files of one folder, and what was wrong with them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.problems: list[str] = []

    def refuse(self, table: str, line: int, what: str) -> None:
        """Note one problem."""
        self.problems.append(f"{table}.tsv line {line:,}: {what}.")

    def read(self, table: str, fields: Sequence[Field]) -> Iterator[tuple[int, tuple[Any, ...]]]:
        """Yield the good rows of a table with their line numbers; the first field is its key."""
        path, width = self.folder / f"{table}.tsv", _WIDTHS[table]
        try:
            *lines, rest = path.read_bytes().split(b"\n")
        except OSError as error:
            self.problems.append(f"{path.name}: {error.strerror}: put the file into {self.folder}.")
            return
        if rest:
            lines.append(rest)
            self.refuse(table, len(lines), "no line end: the file looks cut off; add one if not")
        if not lines:
            self.problems.append(f"{path.name} is empty: at least one row is needed.")
            return
        seen: dict[object, int] = {}
        for line, raw in enumerate(lines, start=1):
            try:
                texts = raw.decode().removesuffix("\r").split("\t")
            except UnicodeDecodeError:
                self.refuse(table, line, "not UTF-8: save the file as UTF-8")
                continue
            if len(texts) != width:
                self.refuse(table, line, f"{len(texts)} of {width} columns")
                continue
            try:
                row = tuple(field(text) for field, text in zip(fields, texts, strict=False))
            except ValueError as error:
                self.refuse(table, line, str(error))
                continue
            if (first := seen.setdefault(row[0], line)) != line:
                self.refuse(table, line, f"number {row[0]} stands in line {first:,} already")
                continue
            yield line, row
