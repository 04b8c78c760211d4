"""A shop and novels; models are imported late: pytest reads this before Django is set up."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.processes import PATIENCE_SECONDS

if TYPE_CHECKING:
    from tests.testapp.models import Novel

SIZE = 12
"""Gadgets of the shop; more than the queries that any shape may take."""


def fill_shop(size: int = SIZE) -> None:
    """Make gadgets with something behind every relation, and some without."""
    from django.contrib.contenttypes.models import ContentType

    from tests.testapp.models import (
        Badge,
        Brand,
        Country,
        Crate,
        Gadget,
        Maker,
        Manual,
        Note,
        Part,
        Toy,
    )

    countries = Country.objects.bulk_create(Country(name=f"country {n}") for n in range(size))
    makers = Maker.objects.bulk_create(
        Maker(name=f"maker {n}", country=countries[n]) for n in range(size)
    )
    gadgets = Gadget.objects.bulk_create(
        Gadget(name=f"gadget {n:03}", text=f"text {n}", file=f"{n}.txt", maker=makers[n])
        for n in range(size)
    )
    for child, parent in zip(gadgets[1:], gadgets, strict=False):
        child.parent = parent
    Gadget.objects.bulk_update(gadgets, ["parent"])
    badges = Badge.objects.bulk_create(Badge(name=f"badge {n}") for n in range(size))
    for number, gadget in enumerate(gadgets):
        gadget.badges.set(badges[number : number + 2])
    Part.objects.bulk_create(
        Part(gadget=gadget, name=f"part {n}", is_broken=n == 2)
        for gadget in gadgets
        for n in range(3)
    )
    Manual.objects.bulk_create(
        Manual(gadget=gadget, title=f"how to {gadget}") for gadget in gadgets[:-1]
    )
    brands = Brand.objects.bulk_create(Brand(code=f"B{n}") for n in range(size))
    crates = Crate.objects.bulk_create(Crate(brand=brand) for brand in brands)
    for model, rows in ((Gadget, gadgets), (Crate, crates)):
        kind = ContentType.objects.get_for_model(model)
        Note.objects.bulk_create(
            Note(content_type=kind, object_id=str(row.pk), text=f"on {row}") for row in rows
        )
    for number in range(size):
        Toy.objects.create(name=f"toy {number}", maker=makers[number], age=number)


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for the line that waits for a task for as long as a slow machine may need."""
    monkeypatch.setattr("dbpatterns.queries.awaiting._PATIENCE", PATIENCE_SECONDS)


@pytest.fixture
def shop(db: None) -> None:
    """Twelve of everything."""
    fill_shop()


ROWS = 4


def write_novels() -> list[Novel]:
    """Each with its own author of its own nation, two critiques, two genres, a note; and a tree."""
    from tests.testapp.models import (
        Branch,
        Critique,
        Genre,
        Nation,
        Novel,
        Novelist,
        Sticky,
        Synopsis,
    )

    genres = [Genre.objects.create(name=f"genre {number}") for number in range(ROWS + 1)]
    made = []
    for number in range(ROWS):
        nation = Nation.objects.create(name=f"nation {number}")
        novelist = Novelist.objects.create(name=f"novelist {number}", nation=nation)
        editor = Novelist.objects.create(name=f"editor {number}", nation=nation)
        novel = Novel.objects.create(title=f"novel {number}", novelist=novelist, editor=editor)
        novel.genres.set(genres[number : number + 2])
        Synopsis.objects.create(novel=novel, text=f"synopsis {number}")
        Critique.objects.create(novel=novel, stars=number, text="good")
        Critique.objects.create(novel=novel, stars=number + 1, text="bad")
        Sticky.objects.create(content_object=novel, text=f"note {number}")
        made.append(novel)
    root = Branch.objects.create(name="root")
    for number in range(3):
        child = Branch.objects.create(name=f"child {number}", parent=root)
        for leaf in range(2):
            Branch.objects.create(name=f"leaf {leaf}", parent=child)
    return made


@pytest.fixture
def fleet(novels: list[Novel]) -> None:
    """Ships at home in ports, with crews, sisters and days in dock; and keys of two columns."""
    from tests.testapp.models import (
        Berth,
        Brand,
        Crate,
        Docking,
        Frigate,
        Lot,
        Port,
        Sailor,
        Sale,
        Tanker,
    )

    for number in range(ROWS):
        port = Port.objects.create(
            name=f"port {number}", code=f"p{number}", data={"depth": {"metres": number}}
        )
        frigate = Frigate(name=f"frigate {number}", home=port)
        frigate.save()
        tanker = Tanker.objects.create(name=f"tanker {number}", kind="t", home=port, volume=number)
        frigate.sisters.add(tanker)
        for ship, rank in ((frigate, "captain"), (frigate, "mate"), (tanker, "captain")):
            sailor = Sailor.objects.create(name=f"{rank} {number}")
            Berth.objects.create(ship=ship, sailor=sailor, rank=rank)
        Docking.objects.create(port=port, day=number, ship=frigate)
        Docking.objects.create(port=port, day=number + 1, ship=tanker)
        brand = Brand.objects.create(code=f"B{number}")
        Crate.objects.create(brand=brand)
        Lot.objects.create(code=f"L{number}", year=2000 + number)
        Sale.objects.create(lot_code=f"L{number}", lot_year=2000 + number)


@pytest.fixture
def novels(db: None) -> list[Novel]:
    """A few novels, and what hangs on them."""
    return write_novels()
