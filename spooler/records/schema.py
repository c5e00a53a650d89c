"""Encodes and decodes record bodies. The record type of a kind is its only schema. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import product
from typing import Any, Generic, ParamSpec, TypeVar

from spooler.errors import MalformedBody

Fields = ParamSpec("Fields")
Record = TypeVar("Record")

_TYPES: dict[str, tuple[type, str]] = {
    "str": (str, "text"),
    "int": (int, "a whole number"),
    "float": (float, "a number"),
    "bool": (bool, "true or false"),
    "dict": (dict, "a map"),
    "list": (list, "a list"),
    "None": (type(None), "nothing"),
}
_WORDS = dict(_TYPES.values())
_FLOAT_LIMIT = 2**53  # whole numbers below it are floats without loss
RUN_CHARACTERS = 1024  # of a run id, at most: wandb takes 128


class Schema(Generic[Fields, Record]):
    """The fields of `record`, a NamedTuple: names, types, and defaults of optional ones.

    `renamed` maps the present name of a field to the one that earlier versions wrote.
    """

    def __init__(
        self, record: Callable[Fields, Record], renamed: Mapping[str, str] | None = None
    ) -> None:
        known: Any = record
        self._record = record
        self._make: Callable[[tuple[Any, ...]], Record] = known._make
        self._names: tuple[str, ...] = known._fields
        self._optional: dict[str, Any] = known._field_defaults
        self._defaults = tuple(self._optional.get(name, self) for name in self._names)
        self._accepted = [_types_of(known.__annotations__[name]) for name in self._names]
        self._usual = frozenset(product(*self._accepted))  # types of values that need no look
        self._renamed = renamed or {}

    def encode(self, *args: Fields.args, **kwargs: Fields.kwargs) -> dict[str, Any]:
        """The body of a record; optional fields that are empty are left out."""
        record: Any = self._record(*args, **kwargs)
        optional = self._optional
        return {
            name: value
            for name, value in record._asdict().items()
            if value or name not in optional or value != optional[name]
        }

    def decode(self, body: Mapping[str, Any]) -> Record:
        """The record in a decoded body. Keys of later versions are ignored.

        Raises:
            MalformedBody: a field is missing, or has a value of another type.
        """
        if self._renamed:
            body = {new: body[old] for new, old in self._renamed.items() if old in body} | {**body}
        values = tuple(map(body.get, self._names, self._defaults))
        if tuple(map(type, values)) not in self._usual:
            values = tuple(self._checked(values))
        if self._names[0] == "run" and len(values[0]) > RUN_CHARACTERS:
            raise MalformedBody(f"run is longer than {RUN_CHARACTERS} characters")
        return self._make(values)

    def _checked(self, values: tuple[Any, ...]) -> Iterator[Any]:
        """The values, whole numbers as floats where a field is one."""
        for name, value, default, accepted in zip(
            self._names, values, self._defaults, self._accepted, strict=True
        ):
            if value is self:
                raise MalformedBody(f"{name} is missing")
            if accepted == (float,) and type(value) is int and abs(value) < _FLOAT_LIMIT:
                yield float(value)
            elif value is default or type(value) in accepted:
                yield value
            else:
                found = _WORDS.get(type(value), type(value).__name__)
                wanted = " or ".join(_WORDS[one] for one in accepted)
                raise MalformedBody(f"{name} is {found}, not {wanted}")


def _types_of(annotation: Any) -> tuple[type, ...]:
    """The types that an annotation names, such as `int | None`; NamedTuple keeps its text."""
    text = getattr(annotation, "__forward_arg__", annotation)
    return tuple(_TYPES[part.partition("[")[0].strip()][0] for part in text.split("|"))
