"""Sinks are configured: only those in the file exist, and they may come and go."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from shipper.config.load import load
from shipper.config.schema import SINK_SETTINGS, Config
from shipper.errors import ConfigError
from shipper.ledger.ledger import Ledger
from shipper.service import ship_once
from shipper.sinks import REGISTRY, enabled_sinks, load_class, table_problems
from tests.kit.command import lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.running import failing, ship_until
from tests.kit.shipping import config, detection, goodbye, spool, step


@pytest.fixture
def two(tmp_path: Path) -> Iterator[tuple[FaultyReceiver, FaultyReceiver]]:
    with (
        FaultyReceiver(path=tmp_path / "a.sqlite") as one,
        FaultyReceiver(path=tmp_path / "b.sqlite") as other,
    ):
        yield one, other


def sinks(folder: Path, **urls: str) -> Config:
    """A service with one telemetry-processor for each name."""
    file = folder / "lens.toml"
    file.write_text(
        "\n".join(
            f'[sinks.{name}]\ntype = "telemetry-processor"\nurl = "{url}"\n'
            for name, url in urls.items()
        )
    )
    given = {"spool": folder / "spool", "state": folder / "state", "http_listen": "off"}
    more = {"retention_seconds": 0}
    return load({**given, **more}, {}, file, sends=True, check_sinks=table_problems)


def status(folder: Path, *more: str) -> str:
    places = ("--spool", str(folder / "spool"), "--state", str(folder / "state"))
    return lens_ship("status", *places, *more).out


def test_two_sinks_of_one_type_work_apart(
    tmp_path: Path,
    two: tuple[FaultyReceiver, FaultyReceiver],
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, other = two
    spool(tmp_path / "spool", [*map(step, range(20)), goodbye()])
    other.go_away()
    both = sinks(tmp_path, east=one.url, west=other.url)
    left = ship_until(
        both, lambda service: len(arrived(one.store, "w").order) == 20 and failing(service)
    )
    assert len(left) == 1
    assert arrived(one.store, "w").order == list(range(20))
    other.come_back()
    both = sinks(tmp_path, east=one.url, west=other.url)
    assert ship_once(both, timeout=60) == []
    assert arrived(other.store, "w").order == list(range(20))
    assert "sink removed" not in caplog.text, "the state is new"


def test_a_sink_that_is_not_configured_holds_nothing_back_and_raises_no_alarm(
    tmp_path: Path, two: tuple[FaultyReceiver, FaultyReceiver]
) -> None:
    one, _ = two
    directory, _ = spool(tmp_path / "spool", [detection(), *map(step, range(20)), goodbye()])
    assert ship_once(sinks(tmp_path, east=one.url), timeout=60) == []
    assert not directory.exists(), "a sink that does not exist keeps the segments"
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    for command in ("status", "audit"):
        done = lens_ship(command, *places)
        assert done.code == 0, done
        assert "master" not in done.out
        assert "detection" not in done.out


@pytest.mark.parametrize("delivers", [True, False])
def test_a_removed_sink_is_a_warning_only_if_it_had_records_to_send(
    tmp_path: Path,
    two: tuple[FaultyReceiver, FaultyReceiver],
    caplog: pytest.LogCaptureFixture,
    delivers: bool,
) -> None:
    one, other = two
    caplog.set_level(logging.INFO)
    spool(tmp_path / "spool", [*map(step, range(20)), goodbye()])
    both = sinks(tmp_path, east=one.url, west=other.url)
    if delivers:
        assert ship_once(both, timeout=60) == []
    else:
        other.go_away()
        ship_until(both, failing)
    assert ship_once(sinks(tmp_path, east=one.url), timeout=60) == []
    (removed,) = [record for record in caplog.records if "sink removed" in record.message]
    assert removed.levelname == ("INFO" if delivers else "WARNING")
    assert removed.fields["pending"] == (0 if delivers else 21)


def test_a_sink_that_is_added_starts_at_the_oldest_record_kept(
    tmp_path: Path, two: tuple[FaultyReceiver, FaultyReceiver]
) -> None:
    one, other = two
    _, writer = spool(tmp_path / "spool", map(step, range(20)), close=False, segment_records=8)
    assert ship_once(sinks(tmp_path, east=one.url), timeout=60) == []
    assert arrived(one.store, "w").order[-1] >= 15
    writer.close()
    assert ship_once(sinks(tmp_path, east=one.url, west=other.url), timeout=60) == []
    kept = arrived(other.store, "w").order
    assert kept == list(range(16, 20)), "what is left of the log, and all of it"
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    audit = lens_ship("audit", *places)
    assert audit.code == 0, audit.out


def test_a_sink_that_is_added_while_the_root_is_away_gets_what_another_one_still_waits_for(
    tmp_path: Path, two: tuple[FaultyReceiver, FaultyReceiver]
) -> None:
    """Nothing could be seen, so it began behind the sink that was furthest."""
    one, other = two
    root, nowhere = tmp_path / "spool", "http://127.0.0.1:9"
    spool(root, map(step, range(20)))
    ship_until(
        sinks(tmp_path, east=one.url, north=nowhere),
        lambda service: len(arrived(one.store, "w").order) == 20 and failing(service),
    )
    root.rename(tmp_path / "away")
    three = {"east": one.url, "north": nowhere, "west": other.url}
    assert ship_once(sinks(tmp_path, **three), timeout=60) != []
    (tmp_path / "away").rename(root)
    ship_until(sinks(tmp_path, **three), lambda _: len(arrived(other.store, "w").order) == 20)
    assert arrived(other.store, "w").order == list(range(20))


def test_a_sink_that_is_removed_holds_nothing_back_and_status_says_what_it_had(
    tmp_path: Path, two: tuple[FaultyReceiver, FaultyReceiver]
) -> None:
    one, other = two
    other.go_away()
    _, writer = spool(tmp_path / "spool", map(step, range(20)), close=False, segment_records=8)
    ship_until(sinks(tmp_path, east=one.url, west=other.url), failing)
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert set(ledger.sinks()) == {"east", "west"}
    writer.close()
    assert ship_once(sinks(tmp_path, east=one.url), timeout=60) == []
    with closing(Ledger(tmp_path / "state", exclusive=False)) as ledger:
        assert set(ledger.sinks()) == {"east"}


def test_every_problem_of_every_sink_is_named_at_once(tmp_path: Path) -> None:
    file = tmp_path / "lens.toml"
    file.write_text(
        'workers = 99\n[sinks.a]\ntype = "telemetry-procesor"\n[sinks.b]\ntype = "dlrover"\n'
        'address = "x"\ncolour = 1\n[sinks."c d"]\ntype = "nowhere.at:All"\n'
        '[sinks.e]\ntype = "telemetry-processor"\ntoken_file = "/nowhere"\n'
    )
    with pytest.raises(ConfigError) as raised:
        load({"spool": "s"}, {}, file, check_sinks=table_problems)
    text = str(raised.value)
    for word in ("workers", "[sinks.a]: type", "address", "colour", "[sinks.c d]", "nowhere.at"):
        assert word in text
    assert "[sinks.e]: token_file" in text


def test_settings_that_have_no_effect_beside_sinks_are_named(tmp_path: Path) -> None:
    file = tmp_path / "lens.toml"
    file.write_text('[sinks.a]\ntype = "telemetry-processor"\nurl = "http://a/v1"\n')
    with pytest.raises(ConfigError, match="--processor-url: has no effect"):
        load({"spool": "s", "processor_url": "http://b"}, {}, file, check_sinks=table_problems)
    environ = {"PRIMUS_LENS_API_BASE_URL": "http://b/v1"}
    loaded = load({"spool": "s"}, environ, file, check_sinks=table_problems)
    assert list(enabled_sinks(loaded)) == ["a"]


def test_without_any_table_there_are_the_three_sinks_with_todays_settings(tmp_path: Path) -> None:
    given = config(tmp_path, processor_url="http://p/v1", dlrover_max_age=7, batch_max_steps=3)
    found = enabled_sinks(given)
    assert {name: one.type for name, one in found.items()} == {
        "processor": "telemetry-processor",
        "processor-detection": "telemetry-processor-detection",
        "master": "dlrover",
    }
    assert found["processor"].options.url == found["processor-detection"].options.url
    assert found["processor"].options.batch_max_steps == 3
    assert found["master"].options.max_age == 7


def test_the_shorthands_are_the_options_of_the_registered_sinks() -> None:
    found = {
        one.metadata["shorthand"]
        for kind in REGISTRY
        for one in load_class(kind).Options.__dataclass_fields__.values()
        if "shorthand" in one.metadata
    }
    assert found == set(SINK_SETTINGS)
