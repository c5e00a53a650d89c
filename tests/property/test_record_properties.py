"""The short way of decoding a step accepts exactly what the schema accepts."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from spooler.errors import MalformedBody
from spooler.records import step

ODD: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=3),
    st.just({}),
    st.just([]),
)
FIELDS = {
    "run": st.text(max_size=3) | st.just("x" * 1025),
    "step": st.integers(),
    "time": st.floats() | st.integers(),
    "closed": st.booleans(),
    "data": st.dictionaries(st.text(max_size=3) | st.integers(), ODD, max_size=3),
    "tracker": st.text(max_size=3),
    "step_given": st.booleans(),
    "inherited": st.booleans(),
}


@st.composite
def bodies(draw: st.DrawFn) -> dict[str, Any]:
    names = draw(st.sets(st.sampled_from(sorted(FIELDS)), min_size=4))
    odd = draw(st.sets(st.sampled_from(sorted(FIELDS)), max_size=1))
    return {name: draw(ODD if name in odd else FIELDS[name]) for name in names}


def decoded(decode: Any, body: dict[str, Any]) -> Any:
    try:
        return repr(decode(body))  # NaN is not equal to itself
    except MalformedBody:
        return MalformedBody


@given(bodies())
def test_a_step_is_decoded_as_its_schema_says(body: dict[str, Any]) -> None:
    by_schema = decoded(step._schema.decode, body)
    data = body.get("data")
    if isinstance(data, dict) and not all(isinstance(name, str) for name in data):
        by_schema = MalformedBody  # names of values are text: the schema has no word for it
    assert decoded(step.decode, body) == by_schema
