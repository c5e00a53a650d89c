"""The part of `lens-ship inspect` that is its own: what each path is, looked at and printed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import orjson

from shipper.discovery.layout import find_spools
from shipper.humanize import json_safe
from shipper.inspection.report import print_stranger, print_survey, print_surveys
from shipper.inspection.spool import Survey, survey_segment
from shipper.inspection.spool import survey as look_at
from shipper.inspection.strangers import Stranger, is_segment, recognise
from shipper.tables import console
from spooler.spool import format as fmt
from spooler.spool.reader import Reader


@dataclass(frozen=True, kw_only=True)
class _Found:
    surveys: Sequence[Survey] = ()
    strangers: Sequence[Stranger] = ()
    is_root: bool = False

    @property
    def is_wrong(self) -> bool:
        return bool(self.strangers) or any(survey.is_wrong for survey in self.surveys)


def inspect_paths(paths: Sequence[Path], *, verify: bool, as_json: bool) -> int:
    """Look and print; the exit code: 0 all is well, 1 something is wrong or is no spool."""
    found = [_look(path, verify=verify) for path in paths]
    if as_json:
        things = [survey.to_map() for one in found for survey in one.surveys]
        things += [stranger.to_map() for one in found for stranger in one.strangers]
        print(orjson.dumps(json_safe(things), option=orjson.OPT_INDENT_2).decode())  # noqa: T201
    else:
        _print(found)
    return 1 if any(one.is_wrong for one in found) else 0


def _look(path: Path, *, verify: bool) -> _Found:
    if path.is_file() and is_segment(path):
        return _Found(surveys=[survey_segment(path)])
    if path.is_dir():
        if fmt.is_spool_id(path.resolve().name) or Reader(path).segments():
            return _Found(surveys=[look_at(path, verify=verify)])
        spools = [look_at(one, verify=verify) for one in find_spools(path)]
        if spools:
            return _Found(surveys=spools, is_root=True)
    return _Found(strangers=recognise(path))


def _print(found: Sequence[_Found]) -> None:
    out = console()
    for place, one in enumerate(found):
        if place:
            out.print()
        if one.is_root:
            print_surveys(one.surveys, out)
            continue
        for survey in one.surveys:
            print_survey(survey, out)
        for stranger in one.strangers:
            print_stranger(stranger, out)
