"""A program written for the API of others runs here with nothing but its imports changed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.kit import spools

# What a user has, to the letter but for the imports, the log's path and the shorter loop's body.
PROGRAM = """
import logging
import time
from spooler import DiagnosisAgent
{client}

# 配置日志
logging.basicConfig(level=logging.INFO)

# 1. 创建 Master Client
master_client = MasterClient(
    master_addr="localhost:50051",
    node_id=0,
    node_type="worker"
)

# 2. 创建 DiagnosisAgent
agent = DiagnosisAgent.singleton_instance(
    training_log_file="{log}",
    node_rank=0,
    local_world_size=4
)

# 3. 设置 Master Client
agent.set_client(master_client)

# 4. 启动 Agent
agent.start()

# 5. 训练过程中, collectors 会自动收集和上报数据
try:
    # 你的训练代码
    for epoch in range(100):
        train_one_epoch()
        time.sleep(1)

except Exception as e:
    # 6. 发生错误时, 可以进行故障诊断
    action = agent.diagnose_training_failure(
        failures={{"error": str(e)}},
        restart_count=0
    )
    print(f"Diagnosis action: {{action.action_type.name}}")

finally:
    # 7. 停止 Agent
    agent.stop()
"""

# What the program leaves to its user; and time for the last lines on a busy machine.
TRAIN = """
from spooler.diagnosis import agent as limits
limits._LAST_SECONDS = 50.0
def train_one_epoch():
    with open("{log}", "a") as log:
        log.write("epoch done, Verlust 0.5 größer\\n")
    raise RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB")
"""
OWN_CLIENT = """
class MasterClient:
    def __init__(self, master_addr, node_id, node_type):
        self.master_addr = master_addr

    def report_diagnosis_agent_metrics(self, data):
        import os

        what = f"REPORT {data.__class__.__name__} {data.node_rank} {data.to_json()}"
        # Not by `print`, whose flush may fall between the text and the newline of another thread.
        os.write(1, f"{what}\\n".encode())
"""
FAILING_CLIENT = OWN_CLIENT.replace(
    'os.write(1, f"{what}\\n".encode())',
    'raise ConnectionError("Connection refused")',
)
OURS = "from spooler import SpoolMasterClient as MasterClient"


def program(log: Path, client: str) -> str:
    return TRAIN.format(log=log) + PROGRAM.format(log=log, client=client)


@pytest.mark.parametrize("spooled", [False, True])
def test_the_example_runs_with_a_client_of_the_user_s(tmp_path: Path, *, spooled: bool) -> None:
    log = tmp_path / "training.log"
    root = str(tmp_path / "spool") if spooled else None
    done = spools.python(program(log, OWN_CLIENT), PRIMUS_LENS_WANDB_OUTPUT_PATH=root)
    assert done.returncode == 0, done.stderr
    assert "Diagnosis action: RESTART_WORKER\n" in done.stdout
    reports = [line for line in done.stdout.splitlines() if line.startswith("REPORT")]
    assert len(reports) == 1
    assert reports[0].startswith("REPORT WorkerTrainingMetric 0 {")
    assert '"data_type": "TRAINING_LOG", "data_content": "epoch done, Verlust 0.5 gr' in reports[0]
    assert "INFO:lens_ship.collectors:Reported log content: 31 characters" in done.stderr


@pytest.mark.promise("G1")
def test_the_example_runs_with_the_client_that_spools(tmp_path: Path) -> None:
    log = tmp_path / "training.log"
    root = tmp_path / "spool"
    done = spools.python(program(log, OURS), PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root))
    assert done.returncode == 0, done.stderr
    assert "Diagnosis action: RESTART_WORKER\n" in done.stdout
    (directory,) = spools.spools_below(root)
    found = spools.read_whole(directory)
    (report,) = found.bodies("report")
    assert report["data_content"] == "epoch done, Verlust 0.5 größer\n"
    assert report["data_type"] == "TRAINING_LOG"
    assert report["master"] == "localhost:50051"
    assert type(report["timestamp"]) is int
    (decision,) = found.bodies("decision")
    assert (decision["action"], decision["rule"]) == ("RESTART_WORKER", "gpu-memory")
    assert decision["evidence"].endswith("Tried to allocate 2.00 GiB")


@pytest.mark.promise("G2")
def test_a_client_that_fails_is_told_of_and_the_program_goes_on(tmp_path: Path) -> None:
    done = spools.python(program(tmp_path / "training.log", FAILING_CLIENT))
    assert done.returncode == 0, done.stderr
    assert "Diagnosis action: RESTART_WORKER\n" in done.stdout
    line = "ERROR:lens_ship.collectors:Failed to report log data to master: Connection refused"
    assert line in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.promise("G2")
def test_without_a_client_there_is_a_warning_and_no_exception(tmp_path: Path) -> None:
    code = program(tmp_path / "training.log", OWN_CLIENT).replace("agent.set_client", "repr")
    done = spools.python(code)
    assert done.returncode == 0, done.stderr
    assert (
        "WARNING:lens_ship.collectors:Master client not set, log data not reported" in done.stderr
    )
    assert "Diagnosis action: RESTART_WORKER\n" in done.stdout


def test_one_collector_alone_reports_to_the_client_it_is_given(tmp_path: Path) -> None:
    log = tmp_path / "training.log"
    log.write_text("one\n")
    code = f'''
from spooler import LogCollector
{OWN_CLIENT}
master_client = MasterClient(master_addr="localhost:50051", node_id=0, node_type="worker")
log_collector = LogCollector(log_file_path="{log}")
log_collector.set_client(master_client)
if log_collector.is_enabled():
    data = log_collector.collect_data()
    if data:
        log_collector.store_data(data)
'''
    done = spools.python(code)
    assert done.returncode == 0, done.stderr
    assert '"data_content": "one\\n"' in done.stdout


def test_the_switch_from_another_master_client_is_one_import(tmp_path: Path) -> None:
    """`singleton_instance(master_addr=…)`, and an agent without arguments."""
    code = """
from spooler import SpoolMasterClient as MasterClient
from spooler import DiagnosisAgent, DiagnosisDataType, WorkerTrainingMetric
master_client = MasterClient.singleton_instance(
    master_addr="localhost:50051"
)
agent = DiagnosisAgent.singleton_instance()
agent.set_client(master_client)
assert MasterClient.singleton_instance() is master_client
assert DiagnosisAgent.singleton_instance() is agent
master_client.report_diagnosis_agent_metrics(
    WorkerTrainingMetric(data_type=DiagnosisDataType.XPU_TIMER_METRIC, data_content="a 1")
)
"""
    root = tmp_path / "spool"
    done = spools.python(code, PRIMUS_LENS_WANDB_OUTPUT_PATH=str(root), NODE_RANK="3")
    assert done.returncode == 0, done.stderr
    (report,) = spools.read_whole(spools.spools_below(root)[0]).bodies("report")
    assert (report["master"], report["node_rank"]) == ("localhost:50051", 3)
    assert report["data_type"] == "XPU_TIMER_METRIC"
