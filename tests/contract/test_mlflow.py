"""Runs at a real MLflow server: what it returns is what was logged."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgpack
import pytest

from shipper.config.load import load
from shipper.config.schema import Config
from shipper.delivery import backoff
from shipper.http_client.client import HttpClient
from shipper.importers import open_imports, path_digest
from shipper.ledger.ledger import Ledger
from shipper.service import Service, ship_once
from shipper.sinks import build_sinks, enabled_sinks, table_problems
from shipper.sinks.mlflow import runs
from shipper.sinks.mlflow.client import PASSWORD, TOKEN, USERNAME, MlflowClient
from shipper.sinks.mlflow.encode import RUN_TAG, StoredRun
from shipper.sinks.mlflow.plan import RunItem
from shipper.sinks.mlflow.sink import MlflowOptions
from shipper.steps import collect_steps
from spooler.records import detection, run
from tests.kit import spools
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.engines import MLFLOW, Mlflow, needs_mlflow
from tests.kit.master import wait_for
from tests.kit.running import failing, is_told, ship_until
from tests.kit.shipping import T0, Record, append, goodbye, killed, spool

pytestmark = needs_mlflow
NAMES = {
    "loss": 0.5,
    "train/loss": -1.25,
    "lm loss": 2.0,
    "步": 4.0,
    "pass@1": 5.0,
    "pass_1": 6.0,
    "pass#1": 7.0,
    "//a/./b/": 8.0,
    "..": 9.0,
    "x" * 300: 10.0,
}
KEYS = ["loss", "train/loss", "lm loss", "步", "pass_1", "pass_1", "pass_1", "a/b", "__", "x" * 220]


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backoff, "FIRST_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "ALARM_FIRST_SECONDS", 0.01)
    monkeypatch.setattr(backoff, "CAP_SECONDS", 0.1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mlflow]:
    """One for all tests: each has a project and runs of its own."""
    engine = Mlflow(folder=tmp_path_factory.mktemp("mlflow"))
    engine.start()
    yield engine
    engine.kill()


@pytest.fixture
def name() -> str:
    """Of the project, and of the run, of this test."""
    return uuid.uuid4().hex[:12]


def begun(name: str, when: float = T0, **more: Any) -> Record:
    return run.NAME, run.encode(run=name, time=when, project=name, name=f"{name} title", **more)


def logged(name: str, number: int, **data: Any) -> Record:
    values = data or {key: value + number for key, value in NAMES.items()}
    body = {"run": name, "step": number, "time": T0 + number, "closed": True, "data": values}
    return "step", body


def short(name: str, number: int) -> Record:
    """One that takes the server little time."""
    return logged(name, number, loss=number + 0.5)


def finished(name: str, when: float = T0 + 1000, code: int = 0) -> Record:
    return "finish", {"run": name, "time": when, "step": None, "exit_code": code}


def settings(folder: Path, url: str, *more: str) -> Config:
    file = folder / "lens.toml"
    file.write_text("\n".join([f'[sinks.one]\ntype = "mlflow"\nurl = "{url}"', *more]))
    given = {"spool": folder / "spool", "state": folder / "state", "http_listen": "off"}
    return load(given, {}, file, sends=True, check_sinks=table_problems)


def words(folder: Path) -> tuple[str, ...]:
    places = ("--spool", str(folder / "spool"), "--state", str(folder / "state"))
    return ("--config", str(folder / "lens.toml"), *places)


def write(folder: Path, name: str, *records: Record, rank: int | None = 0, number: int = 0) -> None:
    who = spools.identity(spools.spool_id(number), workload_uid="w", rank=rank)
    spool(folder / "spool", [*records, goodbye()], who=who)


def ship(folder: Path, url: str, *more: str) -> list[str]:
    return ship_once(settings(folder, url, *more), timeout=60)


def found(server: Mlflow, name: str, view: str = "ACTIVE_ONLY") -> list[Any]:
    """The runs of a run of the tracker, by rank."""
    mine = [one for one in server.runs(view) if tags(one).get("lens.run") == name]
    return sorted(mine, key=lambda one: tags(one)["lens.rank"])


def the_run(server: Mlflow, name: str) -> Any:
    (one,) = found(server, name)
    return one


def tags(one: Any) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in one["data"].get("tags", [])}


def params(one: Any) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in one["data"].get("params", [])}


def points(server: Mlflow, one: Any) -> dict[str, list[tuple[int, int, float]]]:
    """Name as logged -> step, time and value of each point."""
    known = tags(one)
    keys = [metric["key"] for metric in one["data"].get("metrics", [])]
    run_id = one["info"]["run_id"]
    return {known.get(f"lens.name/{key}", key): server.history(run_id, key) for key in keys}


def expected(count: int, names: Iterable[str] = NAMES) -> dict[str, list[tuple[int, int, float]]]:
    return {
        name: [
            (number, round((T0 + number) * 1000), NAMES[name] + number) for number in range(count)
        ]
        for name in names
    }


def loss(count: int) -> dict[str, list[tuple[int, int, float]]]:
    return expected(count, ["loss"])


def dead(folder: Path) -> dict[str, int]:
    with closing(Ledger(folder / "state", exclusive=False)) as ledger:
        reasons = [row["reason"] for row in ledger.dead_letters()]
    return {reason: reasons.count(reason) for reason in reasons}


# --- everything that was logged -------------------------------------------------------------------


def test_a_server_returns_what_was_logged(tmp_path: Path, server: Mlflow, name: str) -> None:
    hints = {"possible_frameworks": ["primus", "megatron"]}
    seen = {**detection.EXAMPLE, "run": name, "hints": hints}
    config = {"lr": 0.1, "model.layers": 12, "bad@key": True, "long": "步" * 7000}
    many = {f"p{number}": number for number in range(120)}
    first = begun(name, config={**config, **many}, tags=["a", "b"], group="g")
    steps = [logged(name, number) for number in range(12)]
    write(tmp_path, name, first, *steps, ("detection", seen), finished(name))
    assert ship(tmp_path, server.url, "batch_max_metrics = 25") == []
    one = the_run(server, name)
    assert points(server, one) == expected(12)
    keys = [metric["key"] for metric in one["data"]["metrics"]]
    assert sorted(key.partition("-")[0] for key in keys) == sorted(KEYS)
    assert {"loss", "pass_1", "a/b"} <= set(keys)
    assert params(one) == {
        "lr": "0.1",
        "model.layers": "12",
        "bad_key": "True",
        "long": "步" * 6000,
        **{key: str(value) for key, value in many.items()},
    }
    told = tags(one)
    assert told["lens.param_name/bad_key"] == "bad@key"
    assert (told["lens.tags"], told["lens.group"], told["lens.rank"]) == ("a, b", "g", "0")
    assert (told["lens.workload"], told["lens.frameworks"]) == ("w", "primus, megatron")
    info = one["info"]
    assert (info["run_name"], info["status"]) == (f"{name} title", "FINISHED")
    assert (int(info["start_time"]), int(info["end_time"])) == (T0 * 1000, (T0 + 1000) * 1000)
    experiment = server.ask("experiments/get-by-name", experiment_name=name)["experiment"]
    assert info["experiment_id"] == experiment["experiment_id"]


def test_values_are_kept_as_mlflow_keeps_them(tmp_path: Path, server: Mlflow, name: str) -> None:
    values = {
        "nan": math.nan,
        "inf": math.inf,
        "minus": -math.inf,
        "huge": {"_type": "integer", "bits": 5000, "negative": True},
        "true": True,
        "int": 2**40,
        "text": "left out",
        "none": None,
    }
    write(tmp_path, name, begun(name), logged(name, 2**40, **values), logged(name, -5, loss=1.0))
    assert ship(tmp_path, server.url) == []
    kept = {key: point[0][2] for key, point in points(server, the_run(server, name)).items()}
    largest = 1.7976931348623157e308
    assert math.isnan(kept.pop("nan"))
    assert kept == {
        "inf": largest,
        "minus": -largest,
        "huge": -largest,
        "true": 1.0,
        "int": 2.0**40,
        "loss": 1.0,
    }
    steps = {point[0][0] for point in points(server, the_run(server, name)).values()}
    assert steps == {2**40, -5}


@pytest.mark.promise("G13")
def test_a_repetition_changes_nothing(tmp_path: Path, server: Mlflow, name: str) -> None:
    steps = [logged(name, number) for number in range(5)]
    write(tmp_path, name, begun(name, config={"lr": 1}), *steps, finished(name, code=1))
    assert ship(tmp_path, server.url) == []
    before = the_run(server, name)
    done = lens_ship("replay", "--resend-delivered", "--sink", "one", *words(tmp_path))
    assert done.code == 0, done
    after = the_run(server, name)
    assert points(server, after) == expected(5)
    assert before == after
    assert after["info"]["status"] == "FAILED"


def test_a_run_that_wandb_wrote_offline_is_one_command_away(tmp_path: Path, server: Mlflow) -> None:
    golden = spools.REPOSITORY / "tests/golden/wandb-run/run-0.31.0.wandb"
    sink = ("--sink", f"mlflow={server.url}")
    done = lens_ship("replay", str(golden), *sink, "--state", str(tmp_path / "state"))
    assert done.code == 0, done
    (source,) = open_imports(golden)
    steps = collect_steps(source.read(0, 1000).records).complete
    every = sorted(
        (step.step, name, float(value))
        for step in steps
        for name, value in step.data.items()
        if isinstance(value, int | float) and math.isfinite(value)
    )
    one = the_run(server, steps[0].run)
    sent = points(server, one)
    assert every == sorted(
        (step, name, value)
        for name, history in sent.items()
        for step, _, value in history
        if math.isfinite(value) and abs(value) < 1e308
    )


@pytest.mark.promise("G13")
def test_a_replay_that_is_killed_completes_without_a_gap(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    file = tmp_path / name / "wandb_metrics.jsonl"
    file.parent.mkdir()
    lines = (
        {"timestamp": T0 + number, "step": number, "data": {"loss": number}}
        for number in range(600)
    )
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run_name = f"import-{path_digest(file.parent)}"
    command = ("replay", str(file), "--sink", f"mlflow={server.url}")
    command += ("--state", str(tmp_path / "state"))
    process = start_lens_ship(*command, stderr=-3)
    wait_for(
        lambda: any(one["data"].get("metrics") for one in found(server, run_name)),
        "nothing arrives",
    )
    process.kill()
    process.wait(60)
    assert lens_ship(*command).code == 0
    history = points(server, the_run(server, run_name))["loss"]
    assert [(step, value) for step, _, value in history] == [(n, float(n)) for n in range(600)]


# --- runs -----------------------------------------------------------------------------------------


def test_each_rank_has_a_run_of_its_own(tmp_path: Path, server: Mlflow, name: str) -> None:
    for rank in range(3):
        records = (begun(name), logged(name, 1, loss=float(rank)), finished(name))
        write(tmp_path, name, *records, rank=rank, number=rank)
    assert ship(tmp_path, server.url) == []
    every = found(server, name)
    assert [tags(one)["lens.rank"] for one in every] == ["0", "1", "2"]
    assert [points(server, one)["loss"][0][2] for one in every] == [0.0, 1.0, 2.0]


def test_a_sole_writer_has_one_run_whatever_its_rank(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    """Megatron-LM logs on its last rank, which is another one after a restart of another size."""
    for number, rank in enumerate((63, 31, 7)):
        decided = begun(name, T0 + number, sole_writer=True, update=True)
        steps = [begun(name, T0 + number), decided, logged(name, number, loss=float(rank))]
        write(tmp_path, name, *steps, finished(name), rank=rank, number=number)
        assert ship(tmp_path, server.url) == []
    history = points(server, the_run(server, name))["loss"]
    assert [value for _, _, value in history] == [63.0, 31.0, 7.0]


def test_spools_of_one_run_create_it_once(tmp_path: Path, server: Mlflow, name: str) -> None:
    """Processes that know no rank, and of which only one has begun the run."""
    for number in range(4):
        first = [begun(name)] if number == 2 else []
        steps = (logged(name, 10 * number + one, loss=1.0) for one in range(3))
        write(tmp_path, name, *first, *steps, rank=None, number=number)
    assert ship(tmp_path, server.url) == []
    history = points(server, the_run(server, name))["loss"]
    assert [step for step, _, _ in history] == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]


def test_a_run_that_is_gone_is_created_once_by_the_spools_that_miss_it(
    server: Mlflow, name: str
) -> None:
    creating, together = threading.Event(), threading.Barrier(2)

    class Client(MlflowClient):
        def create_run(self, body: Mapping[str, Any]) -> StoredRun:
            creating.set()
            with suppress(threading.BrokenBarrierError):
                together.wait(1)  # for a second one that must not come
            return super().create_run(body)

    known = runs.Runs(Client(MlflowOptions(url=server.url), {}), "")
    items = [RunItem((1,), name, int(T0 * 1000))]
    gone = known.find(items, 0)
    server.ask("runs/set-tag", {"run_id": gone.id, "key": RUN_TAG, "value": "another"})
    creating.clear()
    together.reset()

    def miss() -> runs.Run:
        known.forget(gone, items, 0)
        return known.find(items, 0)

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(miss)
        assert creating.wait(60)
        second = pool.submit(miss)
        assert first.result(60).id == second.result(60).id
    assert [one["info"]["run_id"] for one in found(server, name)] == [first.result().id]


@pytest.mark.parametrize("late", [False, True])
def test_a_run_that_was_killed_and_resumed_is_one_run(
    tmp_path: Path, server: Mlflow, name: str, late: bool
) -> None:
    """Its state is what happened last, also when that is sent first."""
    who = {"workload_uid": "w", "rank": 0}
    killed(tmp_path / "spool", [begun(name), logged(name, 1, loss=1.0)], spools.spool_id(1), **who)
    if not late:
        assert ship(tmp_path, server.url) == []
        assert the_run(server, name)["info"]["status"] == "KILLED"
    else:
        (tmp_path / "spool").rename(tmp_path / "first")
    resumed = [begun(name, T0 + 100, resumed=True), logged(name, 2, loss=2.0)]
    write(tmp_path, name, *resumed, number=2)
    assert ship(tmp_path, server.url) == []
    assert the_run(server, name)["info"]["status"] == "RUNNING"
    if late:
        for file in (tmp_path / "first").iterdir():
            file.rename(tmp_path / "spool" / f"first-{file.name}")
        assert ship(tmp_path, server.url) == []
        assert the_run(server, name)["info"]["status"] == "RUNNING"
    assert [step for step, _, _ in points(server, the_run(server, name))["loss"]] == [1, 2]


def test_a_run_that_the_job_logs_to_mlflow_itself_is_used(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    body = {"experiment_id": "0", "run_name": name}
    own = server.ask("runs/create", body)["run"]["info"]["run_id"]
    write(tmp_path, own, logged(own, 1, loss=1.0), finished(own), rank=3)
    assert ship(tmp_path, server.url) == []
    one = server.ask("runs/get", run_id=own)["run"]
    assert points(server, one) == {"loss": [(1, round((T0 + 1) * 1000), 1.0)]}
    assert one["info"]["status"] == "FINISHED"
    assert found(server, own) == []


_JOB = """
import spooler
spooler.install()
import mlflow
mlflow.set_tracking_uri({url!r})
mlflow.set_experiment({name!r})
run = mlflow.start_run().info.run_id
mlflow.log_params({{"lr": 0.1, "layers": 2}})
away = mlflow.MlflowClient("http://127.0.0.1:9")
for step in range(10):
    mlflow.log_metric("loss", step + 0.5, step=step)
    mlflow.log_metrics({{"a": step, "b": float("nan")}}, step=step)
    try:
        away.log_metric(run, "lost", step, step=step)
    except Exception:
        pass
mlflow.end_run()
print(run)
"""


def test_a_job_and_the_sink_log_to_one_run_each_point_once(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    """What MLflow's own client could not log arrives, too."""
    (tmp_path / "msgpack").symlink_to(Path(msgpack.__file__).parent)
    job = subprocess.run(
        [str(MLFLOW), "-c", _JOB.format(url=server.url, name=name)],
        env=spools.environment(
            PRIMUS_LENS_WANDB_OUTPUT_PATH=str(tmp_path / "spool"),
            PYTHONPATH=f"{spools.REPOSITORY}:{tmp_path}",
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
            MLFLOW_DISABLE_TELEMETRY="true",
        ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert job.returncode == 0, job.stderr
    own = job.stdout.split()[-1]
    before = points(server, server.ask("runs/get", run_id=own)["run"])
    assert ship(tmp_path, server.url) == []
    one = server.ask("runs/get", run_id=own)["run"]
    after = points(server, one)
    assert [(step, value) for step, _, value in after.pop("lost")] == [(n, n) for n in range(10)]
    assert str(after) == str(before)
    assert (params(one), one["info"]["status"]) == ({"lr": "0.1", "layers": "2"}, "FINISHED")
    assert len(found(server, own)) == 0, "no other run was made"


def test_a_param_that_changes_becomes_a_tag(tmp_path: Path, server: Mlflow, name: str) -> None:
    change = begun(name, T0 + 2, config={"lr": 2, "new": 1}, update=True)
    steps = [logged(name, 1, loss=1.0), change, logged(name, 3, loss=3.0)]
    write(tmp_path, name, begun(name, config={"lr": 1, "same": "x"}), *steps, finished(name))
    assert ship(tmp_path, server.url) == []
    again = [begun(name, T0 + 2000, config={"lr": 3, "same": "x"}), logged(name, 4, loss=4.0)]
    write(tmp_path, name, *again, number=2)
    assert ship(tmp_path, server.url) == []
    one = the_run(server, name)
    assert params(one) == {"lr": "1", "same": "x", "new": "1"}
    assert tags(one)["lens.param/lr"] == "3"
    assert len(points(server, one)["loss"]) == 3
    assert dead(tmp_path) == {}


def test_names_of_any_text_are_taken(tmp_path: Path, server: Mlflow, name: str) -> None:
    odd = f"{name} it's \"\ud800\0\n/.."
    config = {"": 1, "\ud800": "\0", odd: odd, "x" * 300: 2, "a/../b": 3}
    first = run.NAME, run.encode(run=odd, time=T0, project=odd * 40, name=odd * 40, config=config)
    values = {odd: 1.0, "": 2.0, "\ud800": 3.0, "\0": 4.0, "x" * 299: 5.0, "x" * 298: 6.0}
    write(tmp_path, odd, first, logged(odd, 0, **values), ("finish", finished(odd)[1]))
    assert ship(tmp_path, server.url) == []
    assert dead(tmp_path) == {}
    (one,) = [one for one in server.runs() if one["info"]["run_name"].startswith(name)]
    assert sorted(metric["value"] for metric in one["data"]["metrics"]) == sorted(values.values())
    assert len(params(one)) == len(config)


@pytest.mark.promise("G6")
def test_an_experiment_that_the_server_does_not_take_costs_no_record(
    tmp_path: Path, server: Mlflow, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "_EXPERIMENT_CHARACTERS", 1000)  # of 500 that MLflow takes
    write(tmp_path, name, begun(name), short(name, 0))
    long = f'experiment = "{name * 50}"'
    left = ship_until(settings(tmp_path, server.url, long), failing)
    assert any("set the option experiment" in line for line in left)
    assert dead(tmp_path) == {}


def test_a_run_without_a_project_is_in_the_default_experiment(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    for number in range(2):
        first = run.NAME, run.encode(run=name, time=T0)
        write(tmp_path, name, first, logged(name, number, loss=1.0), number=number)
        assert ship(tmp_path, server.url) == []
    one = the_run(server, name)
    assert one["info"]["experiment_id"] == "0"
    assert len(points(server, one)["loss"]) == 2


@pytest.mark.promise("G4")
def test_a_service_of_another_kind_gets_nothing(tmp_path: Path) -> None:
    write(tmp_path, "r", begun("r"), logged("r", 0))
    answers = [b"{}", b"[]", b'{"run": {}}', b'{"experiment": 1}', b'{"experiments": [{}]}']

    class Other(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", "0")))
            body = answers[0]
            answers.append(answers.pop(0))
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self) -> None:
            self.do_POST()

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Other) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_address[1]}"
        left = ship_until(settings(tmp_path, url), failing)
        other.shutdown()
    assert any("other-service" in line for line in left)
    assert dead(tmp_path) == {}


def test_an_experiment_may_be_given(tmp_path: Path, server: Mlflow, name: str) -> None:
    write(tmp_path, name, begun(name), logged(name, 1, loss=1.0))
    assert ship(tmp_path, server.url, f'experiment = "other/{name}"') == []
    experiment = server.ask("experiments/get-by-name", experiment_name=f"other/{name}")
    used = the_run(server, name)["info"]["experiment_id"]
    assert used == experiment["experiment"]["experiment_id"]


# --- what was deleted -----------------------------------------------------------------------------


@pytest.mark.promise("G6")
def test_records_of_a_deleted_run_are_dead_letters_until_it_is_restored(
    tmp_path: Path, server: Mlflow, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "DELETED_SECONDS", 0.0)
    write(tmp_path, name, begun(name), short(name, 0))
    assert ship(tmp_path, server.url) == []
    gone = the_run(server, name)["info"]["run_id"]
    server.ask("runs/delete", {"run_id": gone})
    write(tmp_path, name, *(short(name, number) for number in range(1, 40)), number=2)
    assert ship(tmp_path, server.url) == []
    assert dead(tmp_path) == {"run-deleted": 39}
    assert found(server, name) == []  # none was created in its place
    server.ask("runs/restore", {"run_id": gone})
    done = lens_ship("dead-letter", "retry", *words(tmp_path))
    assert done.code == 0, done
    assert points(server, the_run(server, name)) == loss(40)


@pytest.mark.promise("G6")
def test_a_run_that_is_deleted_while_it_is_logged_stops_no_other_run(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    _, writer = spool(tmp_path / "spool", [begun(name), short(name, 0)], close=False)
    service = Service(settings(tmp_path, server.url))
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        # Its status follows its metrics.
        wait_for(lambda: is_told(service, "one"), "nothing arrives")
        assert points(server, the_run(server, name)) == loss(1)
        server.ask("runs/delete", {"run_id": the_run(server, name)["info"]["run_id"]})
        append(writer, [short(name, number) for number in range(1, 5)])
        append(writer, [short(f"{name}-2", 0)])
        wait_for(lambda: found(server, f"{name}-2"), "it waits for the run that is gone")
        wait_for(lambda: dead(tmp_path) == {"run-deleted": 4}, "they are no dead letters")
    finally:
        service.stop()
        thread.join(60)
        writer.close()


def test_an_experiment_that_is_deleted_is_waited_for(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    gone = server.ask("experiments/create", {"name": name})["experiment_id"]
    server.ask("experiments/delete", {"experiment_id": gone})
    write(tmp_path, name, begun(name), *(short(name, number) for number in range(3)))
    left = ship_until(settings(tmp_path, server.url), failing)
    assert any("experiment-deleted" in line for line in left)
    assert dead(tmp_path) == {}
    server.ask("experiments/restore", {"experiment_id": gone})
    assert ship(tmp_path, server.url) == []
    assert points(server, the_run(server, name)) == loss(3)


# --- kills and failures ---------------------------------------------------------------------------


@pytest.mark.promise("G4")
def test_a_service_that_dies_at_any_request_loses_and_repeats_nothing(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    """The nth process dies as soon as the server has done its nth request."""
    steps = [logged(name, number) for number in range(12)]
    write(tmp_path, name, begun(name, config={"lr": 1}), *steps, finished(name))
    config = settings(tmp_path, server.url, "batch_max_metrics = 20")
    for number in range(1, 60):
        child = os.fork()
        if child == 0:
            _die_after(number)
            os._exit(0 if ship_once(config, timeout=60) == [] else 1)
        if os.waitpid(child, 0)[1] == 0:
            break
    assert number > 5
    one = the_run(server, name)
    assert points(server, one) == expected(12)
    assert (one["info"]["status"], params(one)) == ("FINISHED", {"lr": "1"})
    assert dead(tmp_path) == {}


def _die_after(requests: int) -> None:
    original, count = HttpClient._request, 0

    def request(self: HttpClient, *args: Any) -> Any:
        nonlocal count
        answer = original(self, *args)
        count += 1
        if count == requests:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

    HttpClient._request = request  # type: ignore[method-assign]


@pytest.mark.promise("G4")
def test_a_server_that_is_slow_gets_each_point_once(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    """It is stopped while it has requests, so their senders hear nothing and send again."""
    # The run is there: creating one is not idempotent.
    write(tmp_path, name, begun(name), short(name, 0))
    assert ship(tmp_path, server.url) == []
    write(tmp_path, name, *(short(name, number) for number in range(1, 20)), number=2)
    config = settings(tmp_path, server.url, "batch_max_metrics = 4", "read_timeout = 0.5")
    assert server.process is not None
    with ThreadPoolExecutor(1) as pool:
        left = pool.submit(ship_once, config, timeout=spools.PATIENCE_SECONDS)
        for _ in range(3):
            server.process.send_signal(signal.SIGSTOP)
            time.sleep(0.8)  # longer than an answer may take
            server.process.send_signal(signal.SIGCONT)
            assert the_run(server, name)
        assert left.result() == []
    assert points(server, the_run(server, name)) == loss(20)
    assert dead(tmp_path) == {}


@pytest.mark.promise("G4")
def test_a_server_that_is_killed_has_everything_in_the_end(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    write(tmp_path, name, begun(name), *(short(name, number) for number in range(60)))
    service = Service(settings(tmp_path, server.url, "batch_max_metrics = 5"))
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        wait_for(lambda: found(server, name), "nothing arrives")
        server.kill()
        server.start()
        wait_for(lambda: points(server, the_run(server, name)) == loss(60), "not all arrives")
    finally:
        service.stop()
        thread.join(60)
    assert dead(tmp_path) == {}


@pytest.mark.promise("G6")
def test_a_server_that_refuses_gets_everything_later(
    tmp_path: Path, server: Mlflow, name: str
) -> None:
    """It takes requests that are addressed to a host name which it knows."""
    write(tmp_path, name, begun(name), *(short(name, number) for number in range(3)))
    foreign = settings(tmp_path, server.url.replace("127.0.0.1", "127.1"))
    left = ship_until(foreign, failing)
    assert any("not-allowed" in line and "--allowed-hosts" in line for line in left)
    level, text = finding(foreign)
    assert (level, "--allowed-hosts" in text) == ("fail", True)
    assert dead(tmp_path) == {}
    assert ship(tmp_path, server.url) == []
    assert points(server, the_run(server, name)) == loss(3)


def finding(config: Config) -> tuple[str, str]:
    (sink,) = build_sinks(enabled_sinks(config)).values()
    probe: Any = sink
    (one,) = probe.probe(())
    return one.level, one.text


# --- the check, and credentials -------------------------------------------------------------------


def test_the_check_says_what_is_wrong(tmp_path: Path, server: Mlflow, name: str) -> None:
    level, text = finding(settings(tmp_path, server.url))
    assert (level, text.endswith("takes runs, MLflow 3.17.2")) == ("ok", True)
    level, text = finding(settings(tmp_path, f"{server.url}/nowhere"))
    assert (level, "url is the address of the MLflow server" in text) == ("fail", True)
    level, text = finding(settings(tmp_path, "http://127.0.0.1:9"))
    assert (level, "refused" in text) == ("fail", True)


@pytest.mark.parametrize(
    ("environ", "sent"),
    [
        ({USERNAME: "me", PASSWORD: "secret"}, "Basic bWU6c2VjcmV0"),
        ({TOKEN: "secret"}, "Bearer secret"),
    ],
)
def test_credentials_of_mlflow_are_used_and_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], sent: str
) -> None:
    seen = []

    class Echo(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            seen.append(self.headers["Authorization"])
            self.send_response(403)
            self.end_headers()
            self.wfile.write(f"no {sent} secret".encode())

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    for key, value in environ.items():
        monkeypatch.setenv(key, value)
    with ThreadingHTTPServer(("127.0.0.1", 0), Echo) as echo:
        threading.Thread(target=echo.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{echo.server_address[1]}"
        monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
        file = tmp_path / "lens.toml"
        file.write_text('[sinks.one]\ntype = "mlflow"\n')
        _, text = finding(load({"spool": tmp_path}, {}, file, sends=True))
        echo.shutdown()
    assert seen == [sent]
    assert "secret" not in text
    assert "bWU6" not in text
