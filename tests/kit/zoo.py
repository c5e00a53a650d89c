"""Values that users log, and that nobody would: for what must neither change nor break them.

`Zoo` draws them from a random generator: the same seed gives the same values, freshly made. Each
knows how it stands (`condition`): what iterators have left, what generators have begun, how often a
value was asked for something that only its owner may ask.
"""

from __future__ import annotations

import collections
import datetime
import decimal
import enum
import fractions
import inspect
import operator
import random
import time
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

_SLOW_SECONDS = 0.002


class Unprintable(Exception):
    """An error that raises when it is shown."""

    def __str__(self) -> str:
        raise ValueError("this error cannot be shown")

    __repr__ = __str__


ERRORS: tuple[Callable[[], Exception], ...] = (
    lambda: ValueError("a value"),
    lambda: KeyError("a key"),
    lambda: OSError(28, "No space left on device"),
    lambda: MemoryError(),
    lambda: RecursionError("deep"),
    lambda: StopIteration(),
    lambda: AttributeError("attribute"),
    lambda: Unprintable(),
)


def _raises(self: Any, *_: Any) -> Any:
    raise ERRORS[self.which]()


class Stubborn:
    """Whatever it is asked, it raises; wandb logs it as text of a callable, if it can."""

    which = 0

    def __init__(self, which: int) -> None:
        self.__dict__["which"] = which

    def __call__(self) -> None:
        """Be a callable, which wandb takes."""

    __eq__ = __str__ = __repr__ = __len__ = __iter__ = __bool__ = __float__ = __int__ = _raises
    __index__ = __getitem__ = __contains__ = __hash__ = _raises  # type: ignore[assignment]
    __setattr__ = _raises  # type: ignore[assignment]


class Batches:
    """A loader: a callable iterator, which nobody may read but who is meant to."""

    def __init__(self, count: int) -> None:
        self._left = count

    def __call__(self) -> None:
        """Be a callable."""

    def __str__(self) -> str:
        return "batches"

    def __iter__(self) -> Iterator[int]:
        return self

    def __next__(self) -> int:
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._left

    def __length_hint__(self) -> int:
        return self._left


class Slow:
    """A callable that takes its time for whatever it is asked."""

    def __call__(self) -> None:
        """Be a callable."""

    def __str__(self) -> str:
        time.sleep(_SLOW_SECONDS)
        return "slow"

    __repr__ = __str__

    def __float__(self) -> float:
        time.sleep(_SLOW_SECONDS)
        return 0.5

    def __len__(self) -> int:
        time.sleep(_SLOW_SECONDS)
        return 3


class Lazy(Mapping[str, Any]):
    """A mapping that makes its values when it is asked for them, and no dict."""

    def __init__(self, given: dict[str, Any]) -> None:
        self._given = given

    def copy(self) -> dict[str, Any]:
        """As wandb asks of what it logs."""
        return dict(self)

    def __getitem__(self, key: str) -> Any:
        return self._given[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._given)

    def __len__(self) -> int:
        return len(self._given)


class StubbornDict(dict[str, Any]):
    """A dict that raises once it has been read as often as wandb reads it."""

    def __eq__(self, other: object) -> bool:
        raise ValueError("not to be compared")

    __hash__ = None  # type: ignore[assignment]

    def __missing__(self, key: str) -> Any:
        raise LookupError(f"asked for {key}")


class Short(dict[str, Any]):
    """A dict that says of itself that it is empty, and is not."""

    def __len__(self) -> int:
        return 0


class StubbornList(list[Any]):
    """A list whose own way of being read raises; the encoder of JSON does not need it."""

    which = 1
    __iter__ = __eq__ = __reversed__ = _raises  # type: ignore[assignment]
    __hash__ = None  # type: ignore[assignment]


class Text(str):
    """A text that raises for what no writer of text needs."""

    which = 2
    __eq__ = __iter__ = __contains__ = _raises  # type: ignore[assignment]
    __hash__ = str.__hash__


class Tensor:
    """What a torch tensor looks like: numbers behind `item`, for wandb and for us."""

    __module__ = "torch"
    dtype = "torch.float32"
    shape = ()
    requires_grad = False

    def __init__(self, value: float, *, raises_at: int = 0) -> None:
        self._value, self._left = value, raises_at

    def item(self) -> float:
        """The number; an error at the asking that was agreed on."""
        self._left -= 1
        if self._left == 0:
            raise Unprintable
        return self._value

    def size(self) -> tuple[int, ...]:
        """None: it has no dimension."""
        return ()

    def detach(self) -> Tensor:
        """Itself."""
        return self

    data = cpu = property(lambda self: self)


class Colour(enum.Enum):
    """An enumeration."""

    RED = 1


@dataclass
class Point:
    """A dataclass."""

    x: float = 0.5
    tags: list[str] = field(default_factory=list)


_NAMES = ("loss", "a", "b/c", "ü", "x" * 100, "_underscore", "with.dot", " ")

Pair = collections.namedtuple("Pair", "left right")


def _factory() -> Any:
    raise LookupError("a default was made that nobody had asked for")


# wandb has two encoders, the second for what the first refuses; they write UTC in two ways.
_EASTWARD = datetime.timezone(datetime.timedelta(hours=1))


class Zoo:
    """Draws values."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng

    def mapping(self, *, share_of_bad: float) -> Any:
        """What is given to `log`: mostly a dict, sometimes another mapping, rarely none at all."""
        rng = self._rng
        data = {
            self._name(): self.value(share_of_bad=share_of_bad) for _ in range(rng.randrange(1, 6))
        }
        wrap: Callable[[dict[str, Any]], Any] = rng.choices(
            (
                lambda given: given,
                collections.OrderedDict,
                lambda given: collections.defaultdict(_factory, given),
                StubbornDict,
                Lazy,
                collections.UserDict,
                types.MappingProxyType,
                lambda given: list(given.items()),
                lambda given: iter(given.items()),
                lambda given: {**given, 7: 8},
            ),
            (60, 5, 5, 5, 5, 4, 3, 1, 1, 2),
        )[0]
        return wrap(data)

    def value(self, *, share_of_bad: float, depth: int = 0) -> Any:
        """One value; `share_of_bad` of them make wandb raise."""
        rng = self._rng
        if rng.random() < share_of_bad:
            return rng.choice(self._bad())()
        if depth < 5 and rng.random() < 0.25:
            inner = {
                self._name(): self.value(share_of_bad=share_of_bad, depth=depth + 1)
                for _ in range(rng.randrange(4))
            }
            return rng.choice((dict, StubbornDict, collections.OrderedDict))(inner)
        return rng.choice(rng.choice((self._plain, self._numpy, self._media, self._odd))())()

    def _name(self) -> str:
        return self._rng.choice(
            ("loss", "a", "b/c", "ü", "x" * 100, "_underscore", "with.dot", " ")
        )

    def _plain(self) -> tuple[Callable[[], Any], ...]:
        rng = self._rng
        return (
            lambda: rng.randrange(-(2**70), 2**70),
            rng.random,
            lambda: rng.choice((float("nan"), float("inf"), -float("inf"), -0.0, 10**400)),
            lambda: rng.choice((True, False, None)),
            lambda: "é" * rng.randrange(50),
            lambda: "y" * rng.choice((70_000, 2_000_000)),
            lambda: "\ud800 alone",
            lambda: [rng.random() for _ in range(rng.randrange(40))],
            lambda: tuple(range(rng.randrange(5))),
            lambda: {1, 2, 3},
            lambda: datetime.datetime(2024, 1, 2, tzinfo=_EASTWARD),
            lambda: Colour.RED,
            lambda: b"bytes",
            lambda: Pair(1, [2, 3]),
            lambda: {3: "a number for a key"},
        )

    def _numpy(self) -> tuple[Callable[[], Any], ...]:
        rng = self._rng
        return (
            lambda: np.float32(rng.random()),
            lambda: np.int64(rng.randrange(9)),
            lambda: np.bool_(True),
            lambda: np.float64("nan"),
            lambda: np.array(rng.random()),
            lambda: np.array([rng.random()]),
            lambda: np.arange(rng.randrange(40)),
            lambda: np.zeros((rng.randrange(1, 9), 9), dtype=np.float16),
            lambda: np.longdouble(1.5),
            lambda: np.arange(6).reshape(2, 3)[:, ::2],
        )

    def _media(self) -> tuple[Callable[[], Any], ...]:
        import wandb

        rng = self._rng
        return (
            lambda: wandb.Histogram([rng.random() for _ in range(9)]),
            lambda: wandb.Html(f"<p>{rng.random()}</p>"),
            lambda: wandb.Image(np.full((2, 3, 3), rng.randrange(255), dtype=np.uint8)),
            lambda: [wandb.Image(np.zeros((2, 2, 3), dtype=np.uint8)) for _ in range(2)],
            lambda: wandb.Table(columns=["a", "b"], data=[[rng.random(), "x"]]),
        )

    def _odd(self) -> tuple[Callable[[], Any], ...]:
        """What wandb takes, if only as text; its newer versions read iterators, once."""
        rng = self._rng
        return (
            lambda: Batches(rng.randrange(9)),
            lambda: (number for number in range(5)),
            lambda: iter([1, 2, 3]),
            lambda: map(str, range(4)),
            Slow,
            lambda: StubbornList(range(rng.randrange(4))),
            lambda: Short(a=1, b={"c": 2}),
            lambda: Text("text that resists"),
            lambda: Tensor(rng.random()),
            lambda: Tensor(rng.random(), raises_at=2),
            lambda: len,
            lambda: Point,
            lambda: collections.defaultdict(_factory, a=1),
            lambda: [Tensor(0.5), np.float32(1)],
        )

    def _bad(self) -> tuple[Callable[[], Any], ...]:
        """What wandb refuses in its own words, or in the value's."""
        rng = self._rng
        return (
            lambda: Stubborn(rng.randrange(len(ERRORS))),
            lambda: Tensor(0.5, raises_at=1),
            object,
            lambda: 1 + 2j,
            lambda: decimal.Decimal("0.1"),
            lambda: fractions.Fraction(1, 3),
            Point,
            lambda: memoryview(b"abc"),
            lambda: Lazy({"inner": 1}),
            lambda: np.array([object()]),
            lambda: _endless(),
            lambda: b"\xff no text",
        )


def _endless() -> dict[str, Any]:
    """A dict that holds itself."""
    made: dict[str, Any] = {"a": 1}
    made["itself"] = made
    return made


def condition(value: Any, depth: int = 0) -> Any:
    """How a value stands, told without asking any code of its own."""
    if depth > 8:
        return "deep"
    kind = type(value)
    if isinstance(value, types.GeneratorType):
        return [kind.__name__, inspect.getgeneratorstate(value)]
    if issubclass(kind, dict):
        items = list(dict.items(value))
        return [
            kind.__name__,
            [[str.__str__(k) if issubclass(type(k), str) else repr(k)] for k, _ in items],
            [condition(item, depth + 1) for _, item in items],
        ]
    if issubclass(kind, list):
        return [kind.__name__, [condition(item, depth + 1) for item in list.__iter__(value)]]
    if issubclass(kind, (Lazy, collections.UserDict)):
        inner = vars(value)
        return [kind.__name__, condition(inner.get("_given", inner.get("data")), depth + 1)]
    if issubclass(kind, str):
        return [kind.__name__, str.__len__(value)]
    if hasattr(kind, "__next__"):
        return [kind.__name__, operator.length_hint(value, -1)]
    return [kind.__module__, kind.__name__]


def identities(value: Any) -> list[int]:
    """The objects that a tree of plain dicts and lists is made of."""
    found, waiting = list[int](), [value]
    while waiting and len(found) < 10_000:
        one = waiting.pop()
        found.append(id(one))
        if type(one) is dict and one.get("itself") is not one:
            waiting += one.values()
        elif type(one) is list:
            waiting += one
    return found
