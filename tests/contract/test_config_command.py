"""`lens-ship config`: what it shows is what counts, and the file it writes means the same."""

from __future__ import annotations

import json
from pathlib import Path

from shipper.config.load import SETTINGS, load
from shipper.config.render import defaults, effective
from tests.kit.command import lens_ship

GIVEN = {"spool": '/sp\u00f6ol "q" \\ b', "drop_non_numeric": "true", "flush_interval": "0.5"}


def test_every_setting_is_shown_with_its_value_and_where_it_came_from(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text("workers = 3\n")
    flags = ["--spool", "/spool", "--config", str(file)]
    shown = lens_ship("config", "show", "--json", *flags, LENS_SHIP_BATCH_MAX_STEPS="7")
    assert (shown.code, shown.err) == (0, "")
    told = json.loads(shown.out)
    assert list(told) == [setting.name for setting in SETTINGS]
    assert told["spool"] == {"value": "/spool", "from": "--spool"}
    assert told["batch_max_steps"] == {"value": 7, "from": "LENS_SHIP_BATCH_MAX_STEPS"}
    assert told["workers"] == {"value": 3, "from": f"{file}: workers"}
    assert told["log_level"] == {"value": "info", "from": "default"}
    table = lens_ship("config", "show", *flags, LENS_SHIP_BATCH_MAX_STEPS="7")
    assert [line.split()[0] for line in table.out.splitlines()[1:]][:2] == ["spool", "state"]
    assert "LENS_SHIP_BATCH_MAX_STEPS" in table.out


def test_a_missing_root_is_shown_as_null() -> None:
    assert json.loads(lens_ship("config", "show", "--json").out)["spool"]["value"] is None


def test_the_file_that_is_written_gives_the_same_settings(tmp_path: Path) -> None:
    config = load(GIVEN, {})
    file = tmp_path / "settings.toml"
    file.write_text(effective(config), encoding="utf-8")
    again = load({}, {}, file)
    assert {name: getattr(again, name) for name in GIVEN} == {
        name: getattr(config, name) for name in GIVEN
    }
    assert set(again.given) == set(GIVEN), "what was a default stays one"


def test_the_options_of_sinks_are_shown_and_written(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text('[sinks."spare.one"]\ntype = "processor"\nurl = "http://host/v1"\n')
    shown = json.loads(lens_ship("config", "show", "--json", "--config", str(file)).out)
    assert shown["sinks.spare.one.url"] == {
        "value": "http://host/v1",
        "from": f"{file}: [sinks.spare.one]",
    }
    first = load({"spool": "/s"}, {}, file)
    file.write_text(effective(first), encoding="utf-8")
    assert load({}, {}, file).sinks == first.sinks


def test_the_file_of_defaults_sets_nothing_and_names_every_setting(tmp_path: Path) -> None:
    text = defaults()
    file = tmp_path / "settings.toml"
    file.write_text(text, encoding="utf-8")
    assert load({"spool": "/s"}, {}, file).given == {"spool": "--spool"}
    spoken = text.replace('# spool = ""', 'spool = "/s"').replace('# state = ""', 'state = "/t"')
    lines = [line.removeprefix("# ") if " = " in line else line for line in spoken.splitlines()]
    file.write_text("\n".join(lines), encoding="utf-8")
    config = load({}, {}, file)
    for setting in SETTINGS:
        if setting.name not in ("spool", "state"):
            assert getattr(config, setting.name) == setting.default, setting.name
    for setting in SETTINGS:
        assert f"\n# {setting.name} = " in text
    assert lens_ship("config", "default").out == text


def test_invalid_settings_are_reported_instead(tmp_path: Path) -> None:
    done = lens_ship("config", "show", "--workers", "0", "--batch-max-steps", "0")
    assert done.code == 2
    assert len(done.err.splitlines()) == 2


def test_a_misspelt_variable_is_reported_on_stderr() -> None:
    done = lens_ship("config", "show", "--json", LENS_SHIP_BACTH_MAX_STEPS="7")
    assert done.code == 0
    assert done.err == (
        "lens-ship: warning: LENS_SHIP_BACTH_MAX_STEPS: unknown setting, ignored;"
        " did you mean LENS_SHIP_BATCH_MAX_STEPS?\n"
    )
