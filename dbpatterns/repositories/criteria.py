"""Safe criteria: a query string becomes a `Q` through positive lists only.

    SEARCH = Criteria(
        Post,
        allow={"title": {"exact", "icontains"}, "author__name": {"exact"}, "id": {"in"}},
        order=("title", "-published_at"),
    )

    found = SEARCH.parse(request.GET, ignore=("cursor", "page_size"))
    PostRepository().find_by(found.q, order_by=found.order_by)

What is not listed is refused, never ignored: an ignored filter answers with rows nobody asked
for, and `filter(**request.GET.dict())` walks from a post to its author's password. Every value
is text, is cleaned by the kind of its field and stays within what each backend's column holds.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from django.db.models import Model, Q
from django.db.models.constants import LOOKUP_SEP
from django.utils.datastructures import MultiValueDict

from dbpatterns.errors import UsageError
from dbpatterns.repositories.cleaning import TEXT, Kind, Refused, boolean, kind_of, shown
from dbpatterns.repositories.errors import InvalidCriteria
from dbpatterns.repositories.paths import FieldPath, field_path, lookup_path, suggestion

__all__ = ["Criteria", "ParsedCriteria"]

M = TypeVar("M", bound=Model)

_MAX_KEYS = 100  # each unknown one costs a search for what was meant
_MAX_NAME = 60


@dataclass(frozen=True, slots=True)
class ParsedCriteria:
    """What was asked for, ready for `filter` and `order_by`."""

    q: Q
    """The empty `Q` when nothing was asked for. Conditions on relations to many rows are one
    subquery, so that no row comes back twice."""
    order_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class _Term:
    path: FieldPath
    lookup: str
    field: Any  # whose values are sent: a relation's is the key it points at
    kind: Kind

    @property
    def name(self) -> str:
        return f"{self.path.name}{LOOKUP_SEP}{self.lookup}"


class Criteria(Generic[M]):
    """Which fields, lookups and orders of one model strangers may name; declare it once."""

    def __init__(
        self,
        model: type[M],
        /,
        *,
        allow: Mapping[str, Collection[str]],
        order: Sequence[str] = (),
        order_key: str = "order",
        max_length: int = 200,
        max_items: int = 100,
    ) -> None:
        """Check the lists against the model; no query. Needs the models loaded.

        Args:
            allow: lookups by field path. A path is walked only if it stands here in full; a
                relation is compared by its key. `regex` and transforms cannot be allowed.
            order: what may be sent, with its direction: `"title"` does not allow `"-title"`.
            order_key: the key that carries the order, comma separated.
            max_length: characters of one text.
            max_items: values of one `in`.
        Raises: UnknownField: with what was probably meant. UsageError: a lookup that the field's
            kind cannot have safely, or two meanings for one key.
        """
        self.model = model
        self._order_key = order_key
        self._max_length = max_length
        self._max_items = max_items
        self._terms: dict[str, _Term] = {}
        for name, lookups in allow.items():
            self._allow(name, lookups)
        self._order = tuple(order)
        for each in self._order:
            self._check_order(each)
        if order_key in self._terms:
            raise UsageError(
                f"{order_key!r} of {model._meta.label} is both a criterion and the key of the "
                "order: name another key with order_key=."
            )

    def parse(self, sent: Mapping[str, object], *, ignore: Collection[str] = ()) -> ParsedCriteria:
        """Turn `request.GET`, or a dict of text or of lists of text, into a condition; no query.

        `in` and `range` take their values comma separated, as repeated keys, or both. Times
        without a zone are in the current one; booleans are true, false, 1 and 0.

        Args:
            ignore: keys that belong to somebody else, such as the page's.
        Raises: InvalidCriteria: all that is wrong, by the name sent; Django answers 400.
        """
        if isinstance(ignore, str):  # whose letters would be the keys
            raise UsageError(f"ignore= takes a list of keys: ({ignore!r},).")
        if clash := set(ignore) & {*self._terms, self._order_key}:
            raise UsageError(f"{sorted(clash)[0]!r} is a criterion and cannot be ignored.")
        if not isinstance(sent, Mapping):
            raise InvalidCriteria({"": f"Criteria are names with values, not {shown(sent)}."})
        problems: dict[str, str] = {}
        values: dict[str, Any] = {}
        order: tuple[str, ...] = ()
        for number, key in enumerate(key for key in sent if key not in ignore):
            name = key if _is_plain(key) else shown(key)
            if number == _MAX_KEYS:
                problems[name] = f"{name!r} is one key too many: at most {_MAX_KEYS} are read."
                break
            texts = sent.getlist(key) if isinstance(sent, MultiValueDict) else sent[key]
            try:
                if key == self._order_key and self._order:
                    order = self._parse_order(texts)
                elif key not in self._terms:
                    raise Refused(f"is no criterion.{self._hint(key, brief=len(problems) > 5)}")
                elif self._terms[key].name in values:
                    raise Refused("is given twice, with and without '__exact'.")
                else:
                    values[self._terms[key].name] = self._parse_value(self._terms[key], texts)
            except Refused as refused:
                problems[name] = f"{shown(key)} {refused}"
        if problems:
            raise InvalidCriteria(problems)
        return ParsedCriteria(self._joined(values), order)

    def _allow(self, name: str, lookups: Collection[str]) -> None:
        path = field_path(self.model, name)
        field, kind = kind_of(path)
        where = f"{name!r} of {self.model._meta.label}"
        if name.startswith("_") or isinstance(lookups, str) or not lookups:
            raise UsageError(
                f"{where} cannot be allowed like this: name its lookups, "
                'such as {"exact"}, and no field that starts with an underscore.'
            )
        for lookup in sorted(lookups):
            lookup_path(self.model, f"{name}{LOOKUP_SEP}{lookup}")
            if lookup not in kind.lookups:
                raise UsageError(
                    f"Lookup {lookup!r} on {where} cannot be allowed to strangers. "
                    f"A {type(path.target).__name__} can have: {', '.join(sorted(kind.lookups))}."
                )
            term = _Term(path, lookup, field, kind)
            self._terms[term.name] = term
            if lookup == "exact":
                self._terms[name] = term

    def _check_order(self, sent: str) -> None:
        path = field_path(self.model, sent.removeprefix("-"))
        is_relation = path.target.is_relation and path.name.split(LOOKUP_SEP)[-1] not in (
            "pk",
            getattr(path.target, "attname", None),
        )
        if path.is_many or is_relation:
            raise UsageError(
                f"{self.model._meta.label} cannot be ordered by {path.name!r}: "
                "name a column, of this model or of one it points at."
            )

    def _hint(self, key: object, *, brief: bool) -> str:
        names = sorted(self._terms)
        meant = suggestion(str(key), names) if _is_plain(key) else ""
        return meant if brief else f"{meant} Allowed: {', '.join(names) or 'nothing'}."

    def _parse_order(self, sent: object) -> tuple[str, ...]:
        text = _one(_texts(sent))
        if text.count(",") >= len(self._order):
            raise Refused(f"names at most {len(self._order)} fields.")
        names = tuple(text.split(","))
        for each in names:
            if each not in self._order:
                allowed = ", ".join(self._order)
                raise Refused(f"cannot be {shown(each)}. Allowed: {allowed}.")
        if len({each.removeprefix("-") for each in names}) < len(names):
            raise Refused("names a field twice.")
        return names

    def _parse_value(self, term: _Term, sent: object) -> Any:
        texts = _texts(sent)
        if term.lookup == "isnull":
            return boolean(None, _one(texts))
        if term.lookup not in ("in", "range"):
            return self._clean(term, _one(texts))
        limit = 2 if term.lookup == "range" else self._max_items
        count = sum(text.count(",") + 1 for text in texts)
        if count > limit or (term.lookup == "range" and count < 2):
            takes = (
                "takes two values" if term.lookup == "range" else f"takes at most {limit} values"
            )
            raise Refused(f"{takes}, not {count}.")
        values = [self._clean(term, part) for text in texts for part in text.split(",")]
        return tuple(values) if term.lookup == "range" else list(dict.fromkeys(values))

    def _clean(self, term: _Term, text: str) -> Any:
        limit = self._max_length
        if term.kind is TEXT and term.field.max_length is not None:
            limit = min(limit, term.field.max_length)
        if len(text) > limit:
            raise Refused(f"has at most {limit} characters, not {len(text)}.")
        if not text and (term.kind is not TEXT or term.lookup not in ("exact", "iexact")):
            raise Refused("is empty: leave it out, or give it a value.")
        try:
            value = term.kind.clean(term.field, text)
        except (ValueError, ArithmeticError) as error:
            raise Refused(f"must be {term.kind.noun}, not {shown(text)}.") from error
        choices = [each for each, _ in getattr(term.field, "flatchoices", ())]
        if choices and term.lookup in ("exact", "in") and value not in choices:
            some = ", ".join(str(each) for each in choices[:20])
            raise Refused(f"must be one of {some}, not {shown(text)}.")
        return value

    def _joined(self, values: Mapping[str, Any]) -> Q:
        # Pairs, not keywords: `Q` reads some keywords as instructions.
        ones = [pair for pair in values.items() if not self._terms[pair[0]].path.is_many]
        many = [pair for pair in values.items() if self._terms[pair[0]].path.is_many]
        if many:
            matching = self.model._base_manager.filter(Q(*many)).order_by().values("pk")
            ones.append(("pk__in", matching.query))
        return Q(*ones)


def _texts(sent: object) -> Sequence[str]:
    texts: Sequence[Any] = sent if isinstance(sent, list | tuple) else [sent]
    for each in texts:
        if not isinstance(each, str):
            raise Refused(f"must be text, not {shown(each)}.")
    if not texts:
        raise Refused("has no value.")
    return texts


def _one(texts: Sequence[str]) -> str:
    if len(texts) > 1:
        raise Refused(f"takes one value, not {len(texts)}.")
    return texts[0]


def _is_plain(key: object) -> bool:
    return isinstance(key, str) and len(key) <= _MAX_NAME and key.isprintable()
