"""What programs do with MLflow beyond one metric, with the real one and its store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from spooler.records import finish, run, step
from tests.kit.command import lens_ship
from tests.kit.engines import Mlflow, needs_mlflow
from tests.kit.trackers import PROGRAMS, answer, play, python_of, recorded

MLFLOW = PROGRAMS["mlflow.tracking._tracking_service.client"]


@pytest.fixture(autouse=True)
def _installed() -> None:
    python_of(MLFLOW)


def test_every_way_to_log_is_recorded_once_and_as_mlflow_stores_it(tmp_path: Path) -> None:
    stored = answer(
        play(
            tmp_path,
            MLFLOW,
            "from mlflow.entities import Metric, Param\n"
            "mlflow.set_tracking_uri(f'sqlite:///{work}/mlflow.db')\n"
            "with mlflow.start_run(run_id=run):\n"
            "    mlflow.log_param('lr', 0.1); mlflow.log_params({'layers': 12})\n"
            "    for n in range(3): mlflow.log_metric('fluent', n / 2, step=n)\n"
            "    mlflow.log_metrics({'a': 1.0, 'b': 2.0}, step=5)\n"
            "    mlflow.log_metric('later', 3.0, step=6, synchronous=False).wait()\n"
            "    client.log_metric(run, 'positional', 4.0, 1700000000123, 7)\n"
            "    client.log_metric(run, key='none', value=5.0, timestamp=None, step=8)\n"
            "    client.log_batch(run, [Metric('c', 1.0, 1700000000001, 9),\n"
            "        Metric('c', 2.0, 1700000000002, 10), Metric('system/cpu', 3.0, 1, 0)],\n"
            "        params=[Param('name', 'llama')])\n"
            "names = ('fluent', 'a', 'b', 'later', 'positional', 'none', 'c')\n"
            "print(json.dumps([run, sorted([m.key, m.step, m.timestamp, m.value]\n"
            "    for name in names for m in client.get_metric_history(run, name))]))",
        )
    )
    bodies = recorded(tmp_path)
    ours = sorted(
        [name, one.step, round(one.time * 1000), value]
        for one in map(step.decode, bodies["step"])
        for name, value in one.data.items()
    )
    assert ours == stored[1]
    begun = list(map(run.decode, bodies["run"]))
    assert {(one.run, one.mlflow_run_id, one.name) for one in begun} == {
        (stored[0], stored[0], "first")
    }
    params = {name: str(value) for one in begun for name, value in one.config.items()}
    assert params == {"lr": "0.1", "layers": "12", "name": "llama"}
    (ended,) = map(finish.decode, bodies["finish"])
    assert (ended.run, ended.exit_code) == (stored[0], 0)


def test_while_the_server_is_away_metrics_are_recorded_and_the_error_reaches_the_caller(
    tmp_path: Path,
) -> None:
    """MLflow has raised for every metric, and would have lost them."""
    raised = answer(
        play(
            tmp_path,
            MLFLOW,
            "away, raised = mlflow.MlflowClient('http://127.0.0.1:9'), []\n"
            "for n in range(3):\n"
            "    try: away.log_metric('a' * 32, 'loss', n / 2, step=n)\n"
            "    except mlflow.MlflowException as error: raised.append(type(error).__name__)\n"
            "print(json.dumps(raised))",
            MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
        )
    )
    assert raised == ["MlflowException"] * 3
    found = list(map(step.decode, recorded(tmp_path)["step"]))
    assert [(one.run, one.step, one.data, one.accepted) for one in found] == [
        ("a" * 32, n, {"loss": n / 2}, False) for n in range(3)
    ]


def test_a_parameter_that_mlflow_refuses_to_change_keeps_its_value(tmp_path: Path) -> None:
    answer(
        play(
            tmp_path,
            MLFLOW,
            "log({'a': 1}, 1)\nclient.log_param(run, 'lr', 1)\n"
            "try: client.log_param(run, 'lr', 2)\n"
            "except mlflow.MlflowException: client.set_terminated(run); print(0)",
        )
    )
    last = run.decode(recorded(tmp_path)["run"][-1])
    assert (last.update, last.config) == (True, {"lr": 1})


def test_a_run_that_fails_ends_with_an_exit_code(tmp_path: Path) -> None:
    code = "log({'a': 1}, 1)\nclient.set_terminated(run, 'FAILED')\nlog({'a': 2}, 2)\nprint(0)"
    answer(play(tmp_path, MLFLOW, code))
    ended = list(map(finish.decode, recorded(tmp_path)["finish"]))
    assert [(one.step, one.exit_code) for one in ended] == [(1, 1), (2, None)]


@needs_mlflow
def test_what_the_server_missed_reaches_it_later_and_what_it_has_is_not_doubled(
    tmp_path: Path,
) -> None:
    """The hook and the sink together: MLflow's own client has raised and forgotten."""
    server = Mlflow(folder=tmp_path)
    server.start()
    try:
        run_id = answer(
            play(
                tmp_path / "job",
                replace(MLFLOW, begin="import mlflow", log="pass"),
                f"client = mlflow.MlflowClient({server.url!r})\n"
                "run = client.create_run('0').info.run_id\n"
                "client.log_param(run, 'lr', 0.1)\n"
                "away = mlflow.MlflowClient('http://127.0.0.1:9')\n"
                "for n in range(6):\n"
                "    one = away if n in (2, 3) else client\n"
                "    try: one.log_metric(run, 'loss', n / 2, step=n)\n"
                "    except mlflow.MlflowException: pass\n"
                "client.set_terminated(run)\nprint(json.dumps(run))",
                MLFLOW_HTTP_REQUEST_MAX_RETRIES="0",
            )
        )
        before = server.history(run_id, "loss")
        assert [step for step, _, _ in before] == [0, 1, 4, 5]
        places = ("--spool", str(tmp_path / "job" / "spool"), "--state", str(tmp_path / "state"))
        ran = lens_ship("run", "--once", *places, "--sink", f"mlflow={server.url}")
        assert ran.code == 0, ran.err
        after = server.history(run_id, "loss")
        assert [(step, value) for step, _, value in after] == [(n, n / 2) for n in range(6)]
        assert set(before) < set(after)
        assert len(server.runs()) == 1
    finally:
        server.kill()
