"""A replay to a receiver that no file configures, and what it says to a user who is new to it."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shipper.importers import path_digest
from shipper.ledger import database
from shipper.ledger.ledger import Ledger
from shipper.sinks import REGISTRY, from_words, table_problems
from tests.kit import spools
from tests.kit.command import Ran, lens_ship, start_lens_ship
from tests.kit.engines import Prometheus, VictoriaMetrics, needs_prometheus, needs_victoria
from tests.kit.foreign import history, log, run_record, wandb_file
from tests.kit.master import wait_for
from tests.kit.shipping import finish, goodbye, spool, step

pytestmark = pytest.mark.promise("G13")

STEPS = 40


@pytest.fixture(scope="module")
def victoria(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VictoriaMetrics]:
    engine = VictoriaMetrics(folder=tmp_path_factory.mktemp("victoria"))
    engine.start()
    yield engine
    engine.kill()


def replay(tmp_path: Path, *words: str | Path) -> Ran:
    return lens_ship("replay", *map(str, words), "--state", str(tmp_path / "state"))


def to(engine: Any) -> tuple[str, str]:
    return "--sink", f"prometheus={engine.url}/api/v1/write"


def said(ran: Ran) -> str:
    return " ".join((ran.out + ran.err).split())


def exporter_file(folder: Path, count: int, begun: float) -> Path:
    file = folder / "node_0" / "rank_0" / "wandb_metrics.jsonl"
    file.parent.mkdir(parents=True)
    lines = (
        {"timestamp": round(begun + number * 0.01, 3), "step": number, "data": {"loss": number}}
        for number in range(count)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


def losses(engine: VictoriaMetrics, run: str) -> list[float]:
    """Values of training.loss of a run, as often as they are stored.

    Asked for by the run: of a question that was asked before, new series may be missing.
    """
    engine.get("/internal/force_flush")
    question = {"match[]": f'{{run="{run}"}}', "end": str(time.time() + 3600)}
    series = map(json.loads, engine.get("/api/v1/export", **question).splitlines())
    return [
        value
        for one in series
        if one["metric"]["__name__"].endswith("loss")
        for value in one["values"]
    ]


def runs_in(folder: Path, *names: str) -> None:
    """Files as wandb writes them, one for each run, of the same hour."""
    for name in names:
        path = folder / f"offline-run-{name}" / f"run-{name}.wandb"
        path.parent.mkdir(parents=True)
        steps = (history(number, loss=number) for number in range(STEPS))
        path.write_bytes(log([run_record(name), *steps]))


# --- receivers ------------------------------------------------------------------------------------


@needs_victoria
@pytest.mark.parametrize("sink", ["otlp={}/opentelemetry", "prometheus={}/api/v1/write"])
def test_every_run_of_a_folder_arrives_and_is_sent_once(
    tmp_path: Path, victoria: VictoriaMetrics, sink: str
) -> None:
    """Once, of runs without a workload only the newest was sent: the others were overwritten."""
    names = [f"{sink[:2]}{number}" for number in range(3)]
    runs_in(tmp_path / "wandb", *names)
    words = (tmp_path / "wandb", "--sink", sink.format(victoria.url))

    planned, first, again = (replay(tmp_path, *words, *more) for more in (["--dry-run"], [], []))

    assert [ran.code for ran in (planned, first, again)] == [0, 0, 0], first.err
    assert all(losses(victoria, name) == list(map(float, range(STEPS))) for name in names)
    assert "overwrit" not in planned.out
    assert "without an end" in said(first)
    assert "VictoriaMetrics ignores" in said(first)
    assert "sent" not in again.out.split("delivered records")[0].splitlines()[-1]
    accounts = lens_ship("audit", "--state", str(tmp_path / "state"))
    assert accounts.code == 0
    assert "3 of 3 replay receipts match" in accounts.out


@needs_victoria
def test_what_a_selection_left_is_sent_by_the_next_replay(
    tmp_path: Path, victoria: VictoriaMetrics
) -> None:
    """Once, everything up to the last selected step counted as delivered."""
    runs_in(tmp_path / "wandb", "part")
    for last in ("--first-step", "30"), ("--first-step", "30"), ():
        assert replay(tmp_path, tmp_path / "wandb", *to(victoria), *last).code == 0
    counts = Counter(losses(victoria, "part"))
    assert counts.keys() == set(map(float, range(STEPS)))
    assert max(counts.values()) == 2, "the part was sent once as a part"
    before = len(losses(victoria, "part"))
    assert replay(tmp_path, tmp_path / "wandb", *to(victoria), "--last-step", "3").code == 0
    assert len(losses(victoria, "part")) == before, "delivered with the rest"


@needs_victoria
def test_a_replay_that_is_killed_completes_without_a_gap(
    tmp_path: Path, victoria: VictoriaMetrics
) -> None:
    count, points = 6000, 2000  # of a request
    file = exporter_file(tmp_path / "old", count, time.time() - 120)
    run = f"import-{path_digest(tmp_path / 'old')}"
    words = ("replay", str(file), *to(victoria), "--state", str(tmp_path / "state"))
    kills = 0
    for _ in range(3):
        before = len(losses(victoria, run))
        process = start_lens_ship(*words, stderr=-3)
        wait_for(
            lambda old=before, one=process: (
                one.poll() is not None or len(losses(victoria, run)) > old
            ),
            "nothing arrives",
        )
        kills += process.poll() is None
        process.kill()
        process.wait(60)
    assert lens_ship(*words).code == 0
    every = set(map(float, range(count)))
    wait_for(lambda: set(losses(victoria, run)) == every, "not everything is there")
    found = losses(victoria, run)
    assert len(found) - count <= kills * points // 2, "a request has the loss and the step"
    assert "1 of 1 replay receipts match" in lens_ship("audit", *words[-2:]).out


@needs_victoria
def test_kept_spools_go_to_a_new_receiver_beside_the_service(
    tmp_path: Path, victoria: VictoriaMetrics
) -> None:
    """Its positions, its sinks and its accounts stay what they are."""
    root, state = tmp_path / "spool", tmp_path / "state"
    who = spools.identity(spools.spool_id(0), workload_uid="w", rank=0)
    now = time.time() - 60
    steps = [
        ("step", {**step(number)[1], "run": "kept", "time": now + number, "data": {"loss": number}})
        for number in range(STEPS)
    ]
    spool(root, [*steps, finish(), goodbye()], who=who)
    file = tmp_path / "lens.toml"
    file.write_text(
        f'spool = "{root}"\n'
        f'[sinks.one]\ntype = "prometheus"\nprefix = "one."\nurl = "{victoria.url}/api/v1/write"\n'
        f'[sinks.two]\ntype = "otlp"\nprefix = "two."\nurl = "{victoria.url}/opentelemetry"\n'
    )
    service = start_lens_ship("run", "--config", str(file), "--state", str(state), stderr=-3)
    try:
        wait_for(lambda: _read_by(state) == {"one", "two"}, "the service does not deliver")
        before = _positions(state)
        third = replay(tmp_path, root, *to(victoria))
        again = replay(tmp_path, "--spool", root, *to(victoria))
        known = replay(tmp_path, "--config", file, "--sink", "two")
        after = _positions(state)
        assert service.poll() is None
    finally:
        service.terminate()
        service.wait(60)
    assert (third.code, again.code, known.code) == (0, 0, 0), third.err
    assert sorted(losses(victoria, "kept")) == sorted(3 * [float(n) for n in range(STEPS)])
    assert {key: after[key] for key in before} == before
    accounts = lens_ship("audit", "--config", str(file), "--state", str(state))
    assert accounts.code == 0, accounts.out
    assert "every record is accounted for" in accounts.out


def _positions(state: Path) -> dict[tuple[str, str], Any]:
    with closing(Ledger(state, exclusive=False)) as ledger:
        return {
            (row["spool"], row["sink"]): (row["seq"], row["delivered"])
            for row in ledger.positions()
        }


def _read_by(state: Path) -> set[str]:
    """The sinks that have read the one spool to its last record."""
    rows = _positions(state) if database.exists(state) else {}
    return {name for (_, name), (seq, _) in rows.items() if seq == STEPS + 2}


@needs_prometheus
def test_data_that_is_too_old_names_the_setting_of_the_receiver(tmp_path: Path) -> None:
    engine = Prometheus(folder=tmp_path / "prometheus")
    engine.start()
    try:
        new, old = (
            exporter_file(tmp_path / name, STEPS, time.time() - age)
            for name, age in (("new", 60.0), ("old", 5 * 3600.0))
        )
        fresh, late = (replay(tmp_path, file, *to(engine)) for file in (new, old))
        repeated = replay(tmp_path, new, *to(engine), "--resend-delivered")
    finally:
        engine.kill()
    assert (fresh.code, late.code) == (0, 1)
    assert "out_of_order_time_window" not in said(fresh)
    assert "5.0 h old. Prometheus refuses" in said(late)
    assert "40 records rejected" in said(late)
    assert "too-old" in said(late)
    assert "records dropped: already-there" in said(repeated)
    assert "sent 40 records" not in said(repeated)


@needs_victoria
def test_check_and_run_take_such_a_sink(tmp_path: Path, victoria: VictoriaMetrics) -> None:
    spool(tmp_path / "spool", [step(1), goodbye()])
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    sinks = (*to(victoria), "--sink", f"otlp={victoria.url}/opentelemetry")
    checked = lens_ship("check", *places, *sinks)
    ran = lens_ship("run", "--once", *places, *sinks)
    clash = lens_ship("run", "--once", *places, *sinks, "--processor-url", "http://127.0.0.1:1")
    assert checked.out.count("takes metrics") == 2
    assert "2 records delivered" in ran.out
    assert clash.code == 2
    assert "has no effect beside" in clash.err


# --- what a user may give -------------------------------------------------------------------------

NOWHERE = ("--sink", "otlp=http://127.0.0.1:1", "--dry-run")


def test_a_file_that_cannot_be_read_hides_no_other(tmp_path: Path) -> None:
    folder = tmp_path / "wandb"
    folder.mkdir()
    wandb_file(folder / "run-b.wandb", 3)
    (folder / "run-a.wandb").write_bytes(b"something else")
    (folder / "run-c.wandb").touch()
    ran = replay(tmp_path, folder, *NOWHERE)
    assert ran.code == 1
    assert f"not replayed: {folder}/run-a.wandb: not a run file of wandb" in said(ran)
    assert f"{folder}/run-c.wandb has no complete record yet" in said(ran)
    assert "0 to 2" in ran.out


def test_copies_of_a_run_are_sent_once(tmp_path: Path) -> None:
    runs_in(tmp_path / "wandb", "a", "b")
    shutil.copytree(tmp_path / "wandb" / "offline-run-a", tmp_path / "copy")
    with (tmp_path / "copy" / "run-a.wandb").open("r+b") as shorter:
        shorter.truncate(1500)
    ran = replay(tmp_path, tmp_path / "copy", tmp_path / "wandb", tmp_path / "wandb", *NOWHERE)
    assert ran.code == 0
    assert "are copies. One of them is sent" in said(ran)
    assert ran.out.count(f"0 to {STEPS - 1}") == 2


def test_a_place_with_nothing_to_replay_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty").mkdir()
    ran = replay(tmp_path, tmp_path / "notes.txt", tmp_path / "empty", *NOWHERE)
    assert ran.code == 1
    assert said(ran).count("run-*.wandb") == 2
    assert replay(tmp_path, tmp_path / "absent", *NOWHERE).code == 2


def test_a_receiver_that_takes_none_of_it_is_named_as_such(tmp_path: Path) -> None:
    runs_in(tmp_path / "wandb", "a")
    ran = replay(tmp_path, tmp_path / "wandb", "--sink", "dlrover=127.0.0.1:1")
    assert ran.code == 0
    assert "of a kind that these sinks take" in said(ran)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("otlp=somewhere", "'somewhere' is not an http:// or https:// URL"),
        ("otlp", "url: is not set"),
        ("prometeus", "Did you mean 'prometheus'?"),
        ("prometeus=http://a", "'prometeus' is not a type of sink; known are"),
        ("mine", "'mine' is not one of 'processor', 'processor-detection', 'master'"),
    ],
)
def test_a_sink_that_is_none_is_explained(tmp_path: Path, words: str, complaint: str) -> None:
    runs_in(tmp_path / "wandb", "a")
    ran = replay(tmp_path, tmp_path / "wandb", "--sink", words)
    assert ran.code == 2
    assert complaint in said(ran)


@pytest.mark.parametrize("words", ["mlflow=http://u:hunter2@h", "http://u:hunter2@h"])
@pytest.mark.parametrize("command", ["replay", "run"])
def test_a_password_in_an_address_is_refused_and_not_shown(
    tmp_path: Path, command: str, words: str
) -> None:
    places = ("--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state"))
    ran = lens_ship(command, *places, "--sink", words)
    assert ran.code == 2
    assert "***@h" in said(ran)
    assert "hunter2" not in ran.out + ran.err


@pytest.mark.parametrize("kind", REGISTRY)
def test_every_type_of_sink_can_be_named_by_its_address(kind: str) -> None:
    address = "host:1" if kind == "dlrover" else "http://host:1"
    name, table = from_words(f"{kind}={address}")
    assert re.fullmatch(f"{kind}-host-[0-9a-f]{{6}}", name)
    assert table_problems({name: table}, "") == []
    assert address in table.values()


def test_the_address_may_come_from_the_environment(tmp_path: Path) -> None:
    runs_in(tmp_path / "wandb", "a")
    words = ("replay", str(tmp_path / "wandb"), "--state", str(tmp_path / "state"), "--dry-run")
    ran = lens_ship(*words, "--sink", "otlp", OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert ran.code == 0
    assert "http://127.0.0.1:1/v1/metrics" in ran.out
    assert not (tmp_path / "state").exists()  # a dry run makes nothing


def test_a_replay_that_is_stopped_tells_how_it_goes_on(tmp_path: Path) -> None:
    runs_in(tmp_path / "wandb", "a")
    words = (str(tmp_path / "wandb"), "--sink", "otlp=http://127.0.0.1:1")
    with start_lens_ship("replay", *words, "--state", str(tmp_path / "state")) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("sink paused, data is kept" in line for line in lines)
        process.terminate()
        rest = " ".join(lines)
        assert process.wait(60) == 1
    assert "The same command sends it" in rest
