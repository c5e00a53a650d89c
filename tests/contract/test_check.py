"""`lens-ship check`: what is wrong is found, what to do is said, and nothing is changed."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

import shipper.check
from shipper.check import REGISTRY, CheckContext, run_checks
from shipper.check import disk as disk_check
from shipper.check import system as system_check
from shipper.config.load import load
from shipper.finding import Finding
from shipper.humanize import size
from shipper.sinks.processor import probe
from shipper.status.collect import _disk
from spooler.spool.filesystem import FileSystem
from tests.kit import spools
from tests.kit.certificates import Authority
from tests.kit.command import Ran, lens_ship, start_lens_ship
from tests.kit.faulty_receiver import FaultyReceiver
from tests.kit.images import read_only_view
from tests.kit.master import needs_master, running
from tests.kit.shipping import goodbye, spool, step
from tests.kit.tls_receiver import TlsReceiver

PODS = b'{"meta":{"code":2000,"message":"OK"},"data":{"pod-a":[["job","uid-a"]]},"tracing":null}'


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[FaultyReceiver]:
    with FaultyReceiver(path=tmp_path / "received.sqlite") as running:
        yield running


class Page:
    """A server with one answer to every GET, remembering what was asked and with which headers."""

    def __init__(self) -> None:
        self.status, self.body = 200, PODS
        self.headers: dict[str, str] = {}
        self.only = "/v1"  # other paths are not found
        self.asked: list[Mapping[str, str]] = []
        page = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                page.asked.append({name.lower(): value for name, value in self.headers.items()})
                found = self.path.startswith(page.only)
                self.send_response_only(page.status if found else 404)
                for name, value in page.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(page.body if found else b"404 page not found")

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


@pytest.fixture
def page() -> Iterator[Page]:
    one = Page()
    yield one
    one.server.shutdown()
    one.server.server_close()


def write(folder: Path, salt: int = 0, **who: str) -> Path:
    identity = spools.identity(spools.spool_id(salt), **who)
    directory, _ = spool(folder / "spool", [step(1), goodbye()], who=identity)
    return directory


def flags(folder: Path, url: str = "") -> list[str]:
    given = ["--spool", str(folder / "spool"), "--state", str(folder / "state")]
    return [*given, "--processor-url", url] if url else given


def findings(folder: Path, url: str = "", **more: Any) -> list[Finding]:
    given = {"spool": folder / "spool", "state": folder / "state", "processor_url": url, **more}
    return list(run_checks(load(given, {}, sends=True)))


def about(found: list[Finding], word: str) -> list[Finding]:
    return [one for one in found if one.about == word]


def the_only(found: list[Finding], word: str) -> Finding:
    (one,) = about(found, word)
    return one


def told(ran: Ran) -> Any:
    return json.loads(ran.out)


def test_every_file_of_the_checks_is_registered() -> None:
    folder = Path(shipper.check.__file__).parent
    files = {f"shipper.check.{path.stem}:findings" for path in folder.glob("*.py")}
    assert set(REGISTRY.values()) == files - {"shipper.check.__init__:findings"}


def test_where_all_is_well_all_is_ok_and_the_code_is_0(
    tmp_path: Path, receiver: FaultyReceiver
) -> None:
    write(tmp_path, workload_uid="w")
    ran = lens_ship("check", "--json", *flags(tmp_path, receiver.url))
    found = told(ran)["findings"]
    # A busy machine may read the receiver's time late, and others may have all notices.
    mine = [one for one in found if one["about"] not in ("inotify", "clock")]
    assert [one for one in mine if one["level"] != "ok"] == []
    assert ran.code == 0
    assert told(ran)["fail"] == 0
    assert {"settings", "state", "spool", "disk", "sqlite", "processor", "clock"} <= {
        one["about"] for one in found
    }
    text = lens_ship("check", *flags(tmp_path, receiver.url))
    assert text.code == 0
    assert text.out.splitlines()[-1].endswith(" 0 fail")


def test_every_finding_that_is_not_fine_says_what_to_do(tmp_path: Path) -> None:
    write(tmp_path)
    ran = lens_ship("check", "--json", *flags(tmp_path, "http://127.0.0.1:9/v1"))
    wrong = [one for one in told(ran)["findings"] if one["level"] != "ok"]
    assert wrong
    assert all(one["next"] for one in wrong)
    assert ran.code == 1


def snapshot(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path): (found.st_mtime_ns, found.st_size, found.st_mode)
        for path in sorted(folder.rglob("*"))
        for found in [path.lstat()]
        if "received" not in path.name
    }


def test_nothing_is_changed_on_disk_or_sent(tmp_path: Path, receiver: FaultyReceiver) -> None:
    """Neither at a spool that is being written, nor in a state directory, be it there or not."""
    _, writer = spool(tmp_path / "spool", [step(1)], who=spools.identity(pod_name="p"), close=False)
    once = lens_ship("run", "--once", "--timeout", "5", *flags(tmp_path))
    assert once.code == 1, "nothing tells where to send it"
    before = snapshot(tmp_path)
    assert lens_ship("check", *flags(tmp_path, receiver.url)).code == 0
    other = ["--state", str(tmp_path / "not-there")]
    assert lens_ship("check", *flags(tmp_path, receiver.url), *other).code == 0
    assert snapshot(tmp_path) == before
    assert receiver.seen == []
    writer.close()


# --- settings -------------------------------------------------------------------------------------


def test_settings_that_cannot_be_used_are_all_named_with_code_2(tmp_path: Path) -> None:
    wrong = ["--workers", "0", "--token-file", str(tmp_path / "none"), "--log-level", "loud"]
    for more in ([], ["--config-only"]):
        ran = lens_ship("check", *more, *flags(tmp_path, "http://host/v1"), *wrong)
        assert ran.code == 2
        assert len(ran.err.splitlines()) == 3
    ran = lens_ship("check", "--json", *flags(tmp_path, "http://host/v1"), *wrong)
    assert [one["level"] for one in told(ran)["findings"]] == ["fail"] * 3


def test_only_the_settings_needs_no_network_and_no_disk(tmp_path: Path) -> None:
    ran = lens_ship("check", "--config-only", *flags(tmp_path, "http://127.0.0.1:9/v1"))
    assert (ran.code, ran.err) == (0, "")
    assert not (tmp_path / "state").exists()
    modules = spools.python(
        "import sys; sys.argv = ['lens-ship', 'check', '--config-only', '--spool', '/s']\n"
        "from shipper.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print([m for m in ('requests', 'watchdog', 'sqlite_utils') if m in sys.modules])"
    )
    assert modules.stdout.splitlines()[-1] == "[]", "what starts with the service starts at once"


def test_a_misspelt_variable_is_a_warning_and_a_failure_when_strict(tmp_path: Path) -> None:
    given = ["check", "--config-only", *flags(tmp_path)]
    assert lens_ship(*given, LENS_SHIP_BACTH_MAX_STEPS="3").code == 0
    ran = lens_ship(*given, "--strict", LENS_SHIP_BACTH_MAX_STEPS="3")
    assert ran.code == 1
    assert "→ rename or unset LENS_SHIP_BACTH_MAX_STEPS" in ran.out


# --- the receiver ---------------------------------------------------------------------------------


def test_the_prefix_that_answers_is_named(tmp_path: Path, page: Page) -> None:
    found = the_only(findings(tmp_path, page.url.replace("/v1", "/api/v1")), "processor")
    assert found.level == "warn"
    assert f"{page.url} is a telemetry-processor" in found.text
    assert found.next.startswith(f"set processor_url to {page.url}")
    assert the_only(findings(tmp_path, page.url), "processor").level == "ok"


Change = Callable[[Page], None]


def becomes(**changes: Any) -> Change:
    return lambda page: vars(page).update(changes)


ANSWERS: dict[str, tuple[Change, str, str]] = {
    "no processor": (becomes(only="/nowhere"), "fail", "not the answer of a telemetry-processor"),
    "another page": (becomes(body=b"<html>"), "fail", "not the answer of a telemetry-processor"),
    "another code": (
        becomes(body=b'{"meta":{"code":4001,"message":"?"}}'),
        "fail",
        "not the answer of a telemetry-processor",
    ),
    "wants a token": (becomes(status=401), "fail", "token_file and cookie_file are not set"),
    "forbids": (becomes(status=403), "fail", "token_file and cookie_file are not set"),
    "redirects": (
        becomes(status=302, headers={"Location": "https://login/x?state=secret"}),
        "fail",
        "answers 302 to https://login/x",
    ),
    "is away": (becomes(status=503), "warn", "answers 503"),
}


@pytest.mark.parametrize("case", ANSWERS)
def test_what_answers_wrongly_is_told(tmp_path: Path, page: Page, case: str) -> None:
    change, level, text = ANSWERS[case]
    change(page)
    found = the_only(findings(tmp_path, page.url), "processor")
    assert found.level == level
    assert text in found.text
    assert found.next
    assert "secret" not in found.text


def test_a_token_that_is_not_accepted_is_named_and_not_shown(tmp_path: Path, page: Page) -> None:
    page.status = 401
    token = tmp_path / "token"
    token.write_text("s3cret")
    every = findings(tmp_path, page.url, token_file=token)
    assert f"it rejects the content of {token}" in the_only(every, "processor").text
    sent, public = about(every, "access")
    assert f"sends token_file {token}" in sent.text
    assert (public.level, public.next) == ("warn", f"chmod o= {token}")
    token.chmod(0o640)
    assert the_only(findings(tmp_path, page.url, token_file=token), "access").level == "ok"
    assert page.asked[0]["authorization"] == "Bearer s3cret"
    assert "s3cret" not in repr(every)


def test_nobody_there_is_a_failure_and_no_address_a_warning(tmp_path: Path) -> None:
    found = the_only(findings(tmp_path, "http://127.0.0.1:9/v1"), "processor")
    assert (found.level, found.next) == (
        "fail",
        "start the processor, or correct the port: it listens on 8989",
    )
    (tmp_path / "spool").mkdir()
    assert the_only(findings(tmp_path), "processor").level == "warn"


def test_the_addresses_that_jobs_have_recorded_are_asked(tmp_path: Path, page: Page) -> None:
    write(tmp_path, 1, workload_uid="w", api_base_url=page.url)
    write(tmp_path, 2, workload_uid="w", api_base_url="http://127.0.0.1:9/v1")
    levels = {one.text.split()[0]: one.level for one in about(findings(tmp_path), "processor")}
    assert levels == {page.url: "ok", "http://127.0.0.1:9/v1:": "fail"}


@pytest.mark.parametrize(("shift", "level"), [(0, "ok"), (900, "warn"), (-900, "warn")])
def test_a_clock_that_differs_is_told(
    tmp_path: Path, page: Page, monkeypatch: pytest.MonkeyPatch, shift: int, level: str
) -> None:
    monkeypatch.setattr(probe, "CLOCK_SECONDS", 60.0)  # a busy machine may look late
    page.headers["Date"] = formatdate(time.time() + shift, usegmt=True)
    found = the_only(findings(tmp_path, page.url), "clock")
    assert found.level == level
    assert {0: "agrees", 900: "behind", -900: "ahead of"}[shift] in found.text


def test_pods_are_looked_up_for_jobs_that_do_not_know_their_workload(
    tmp_path: Path, page: Page
) -> None:
    write(tmp_path, 1, pod_name="pod-a")
    assert the_only(findings(tmp_path, page.url), "pod").level == "ok"
    write(tmp_path, 2, pod_name="pod-b")
    write(tmp_path, 3, pod_name="pod-c", workload_uid="w")
    unknown = the_only(findings(tmp_path, page.url), "pod")
    assert (unknown.level, unknown.text.split()[0]) == ("warn", "pod-b")
    write(tmp_path, 4)
    nameless = about(findings(tmp_path, page.url), "pod")[-1]
    assert nameless.level == "fail"
    assert spools.spool_id(4) in nameless.text


@pytest.mark.parametrize(("days", "level"), [(90, "ok"), (3, "warn")])
def test_the_end_of_a_certificate_is_told(tmp_path: Path, days: int, level: str) -> None:
    authority = Authority(tmp_path / "authority")
    files = authority.files("127.0.0.1", days=days)
    with TlsReceiver(path=tmp_path / "received.sqlite", files=files) as receiver:
        every = findings(tmp_path, receiver.url, ca_file=authority.ca)
        assert the_only(every, "processor").level == "ok"
        found = the_only(every, "tls")
    assert found.level == level
    assert f"valid for {days} days" in found.text
    with TlsReceiver(path=tmp_path / "received.sqlite", files=files) as receiver:
        unknown = the_only(findings(tmp_path, receiver.url), "processor")
    assert unknown.level == "fail"
    assert "set ca_file" in unknown.text


# --- the master -----------------------------------------------------------------------------------


@needs_master
@pytest.mark.parametrize("service", ["grpc", "http"])
def test_a_master_is_asked_which_generation_it_speaks_and_left_as_it_is(
    tmp_path: Path, service: str
) -> None:
    with running(tmp_path / "master", service) as real:
        write(tmp_path, workload_uid="w", master_addr=real.address, master_service=service)
        found = the_only(findings(tmp_path, "http://127.0.0.1:9/v1"), "master")
        assert real.stored() == []
    assert found.level == "ok"
    assert f"{real.address} is a master that speaks " in found.text
    away = the_only(findings(tmp_path, "http://127.0.0.1:9/v1"), "master")
    assert away.level == "warn"
    assert "DLROVER_MASTER_ADDR" in away.next


def test_an_address_that_is_none_is_a_failure_and_no_master_is_fine(tmp_path: Path) -> None:
    write(tmp_path, 1, workload_uid="w")
    assert the_only(findings(tmp_path, "http://127.0.0.1:9/v1"), "master").level == "ok"
    write(tmp_path, 2, workload_uid="w", master_addr="nonsense")
    assert the_only(findings(tmp_path, "http://127.0.0.1:9/v1"), "master").level == "fail"


# --- state, spools, disk, machine -----------------------------------------------------------------


def test_a_state_in_use_is_told_with_its_process(tmp_path: Path) -> None:
    (tmp_path / "spool").mkdir()
    service = start_lens_ship("run", *flags(tmp_path))
    assert service.stderr is not None
    service.stderr.readline()
    assert (
        f"in use by a service (process {service.pid})" in the_only(findings(tmp_path), "state").text
    )
    service.terminate()
    service.communicate(timeout=spools.PATIENCE_SECONDS)
    assert "no service uses it" in the_only(findings(tmp_path), "state").text


def test_a_state_that_others_can_see_or_that_is_newer_is_told(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    (mode, _) = about(findings(tmp_path), "state")
    assert (mode.level, mode.next) == ("warn", f"chmod 700 {state}")
    state.chmod(0o700)
    lens_ship("run", "--once", *flags(tmp_path))
    connection = sqlite3.connect(state / "ledger.sqlite")
    connection.execute("PRAGMA user_version=99")
    connection.close()
    newer = about(findings(tmp_path), "state")[0]
    assert newer.level == "fail"
    assert "state version 99" in newer.text


def _torn(path: Path) -> None:
    """As a disk leaves it that has lost pages."""
    content = bytearray(path.read_bytes())
    for page in range(4096, len(content), 4096):
        content[page : page + 200] = b"\xff" * 200
    path.write_bytes(content)


@pytest.mark.parametrize(
    "damage",
    [_torn, lambda path: path.write_bytes(b""), lambda path: path.write_bytes(b"\x07" * 8192)],
    ids=["pages", "empty", "bytes"],
)
def test_a_state_that_run_refuses_fails(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    (tmp_path / "spool").mkdir()
    given = ["--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")]
    assert lens_ship("run", "--once", *given).code == 0
    database = tmp_path / "state" / "ledger.sqlite"
    assert the_only(findings(tmp_path), "state").level == "ok"
    damage(database)
    before = {path: path.read_bytes() for path in (tmp_path / "state").iterdir()}
    (found,) = about(findings(tmp_path), "state")
    assert found.level == "fail"
    assert str(database) in found.text
    assert {path: path.read_bytes() for path in (tmp_path / "state").iterdir()} == before
    refused = lens_ship("run", "--once", *given)
    assert refused.code == 4
    assert "move the file away" in refused.err


@pytest.mark.parametrize("module", ["state", "spools"])
@pytest.mark.parametrize("kind", ["nfs4", "lustre", "fuse.sshfs"])
def test_a_network_file_system_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str, kind: str
) -> None:
    there = FileSystem(type=kind, mount="/mnt")
    monkeypatch.setattr(f"shipper.check.{module}.file_system_of", lambda _: there)
    word = module.removesuffix("s")
    assert any(kind in one.text and one.next for one in about(findings(tmp_path), word))


@pytest.mark.parametrize("kind", ["overlay", "tmpfs"])
def test_a_root_that_does_not_last_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    there = FileSystem(type=kind, mount="/")
    monkeypatch.setattr("shipper.check.spools.file_system_of", lambda _: there)
    assert about(findings(tmp_path), "spool")[0].level == "warn"


def test_a_full_root_is_a_failure_while_it_counts(tmp_path: Path) -> None:
    write(tmp_path, workload_uid="w")
    marker = tmp_path / "spool" / "full"
    marker.touch()
    assert any("refuse new records" in one.text for one in findings(tmp_path))
    os.utime(marker, (1.0, 1.0))
    assert not any("refuse new records" in one.text for one in findings(tmp_path))


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may give a file away")
def test_a_marker_that_a_stranger_put_into_a_shared_root_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path, workload_uid="w")
    root = tmp_path / "spool"
    root.chmod(0o3777)
    (root / "full").touch()
    os.chown(root / "full", 65534, 65534)
    assert not any("refuse new records" in one.text for one in findings(tmp_path))
    assert not _disk(root, 0, 0).full


def test_a_spool_that_is_damaged_or_newer_is_told(tmp_path: Path) -> None:
    damaged = write(tmp_path, 1, workload_uid="w")
    (damaged / "00000001.sqlite").write_bytes(b"nothing of a database" * 100)
    found = [one for one in about(findings(tmp_path), "spool") if one.level == "warn"]
    assert any(str(damaged) in one.text for one in found)


def test_a_thousand_spools_with_one_fault_are_no_thousand_lines(tmp_path: Path) -> None:
    for salt in range(8):
        directory = write(tmp_path, salt, workload_uid="w")
        (directory / "00000001.sqlite").write_bytes(b"x" * 100)
    found = [one for one in about(findings(tmp_path), "spool") if one.level == "warn"]
    assert len(found) == 4
    assert found[-1].text == "and 5 spools more"


OTHER_USER = """
import dataclasses, json, os, sys
from shipper.check import run_checks
from shipper.config.load import load
config = load({"spool": sys.argv[1], "state": sys.argv[2]}, {})
list(run_checks(config))  # loads all there is: others cannot go where that stands
os.setgroups([])
os.setgid(61003)
os.setuid(61003)
print(json.dumps([dataclasses.asdict(one) for one in run_checks(config)]))
"""


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can enter, which pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="lens-ship-check-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_what_is_told_to_a_user_who_cannot_read_a_spool_helps(public: Path) -> None:
    directory = write(public, workload_uid="w")
    for folder in (public / "spool", *directory.relative_to(public / "spool").parents):
        (public / "spool" / folder).chmod(0o755)
    (public / "state").mkdir()
    os.chown(public / "state", 61003, 61003)

    def look() -> list[Finding]:
        done = spools.python(OTHER_USER, public / "spool", public / "state")
        return [Finding(**one) for one in spools.answer(done)]

    wrong = [one for one in about(look(), "spool") if one.level == "fail"]
    assert wrong
    for _ in range(4):  # a folder that is opened may show the next one that is closed
        for one in wrong:
            assert "61003" in one.text
            assert "root:root, mode 0" in one.text
            assert "PRIMUS_LENS_SPOOL_GROUP=61003" in one.next
            subprocess.run(one.next.partition(";")[0], shell=True, check=True)
        wrong = [one for one in about(look(), "spool") if one.level != "ok"]
    assert wrong == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to be another user")
def test_a_root_that_this_user_cannot_write_is_told(public: Path) -> None:
    root = public / "spool"

    def look() -> Finding:
        done = spools.python(OTHER_USER, root, public / "state")
        found = [Finding(**one) for one in spools.answer(done)]
        return about(found, "spool")[1]  # the first is about the file system

    missing = look()
    assert f"user 61003 cannot create it in {public}" in missing.text
    root.mkdir(mode=0o555)
    closed = look()
    assert "a job of this user drops all records" in closed.text
    subprocess.run(closed.next.partition(";")[0], shell=True, check=True)
    assert look().text == "no spools below the root"


@pytest.mark.parametrize("written", [True, False])
def test_a_root_that_is_mounted_read_only_is_told_and_not_to_be_changed_by_chmod(
    tmp_path: Path, written: bool
) -> None:
    if written:
        write(tmp_path, workload_uid="w")
    else:
        (tmp_path / "spool").mkdir()
    with read_only_view(tmp_path / "spool", tmp_path / "view") as view:
        found = about(findings(tmp_path, spool=view), "spool")
    assert f"{view} is mounted read-only" in found[1].text
    assert "chmod" not in repr(found)


def test_limits_beyond_the_disk_are_told(tmp_path: Path) -> None:
    assert any("root_bytes" in one.next for one in findings(tmp_path, root_bytes=2**59))
    assert any("retention_bytes" in one.text for one in findings(tmp_path, retention_bytes=2**59))


def test_a_disk_that_is_nearly_full_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_check, "_MIN_FREE_BYTES", 2**62)
    assert about(findings(tmp_path), "disk")[0].level == "fail"


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (999, "999 B"), (1536, "1.5 KiB"), (2**41, "2.0 TiB")]
)
def test_sizes_are_for_people(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("version", "level", "text"),
    [
        ((3, 7, 0), "fail", "too old for the state database"),
        ((3, 40, 1), "ok", "each segment has one writer"),
        ((3, 51, 2), "ok", "each segment has one writer"),
        ((3, 51, 3), "ok", "without known bugs"),
    ],
)
def test_the_faults_of_sqlite_are_known_by_version(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    version: tuple[int, int, int],
    level: str,
    text: str,
) -> None:
    monkeypatch.setattr("spooler.spool.db.VERSION", version)
    found = the_only(list(system_check.findings(CheckContext(config_of(tmp_path)))), "sqlite")
    assert found.level == level
    assert text in found.text


def config_of(folder: Path) -> Any:
    return load({"spool": folder / "spool", "state": folder / "state"}, {})


def test_a_kernel_that_gives_too_few_notices_is_told_with_the_number_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, workload_uid="w")
    kernel = tmp_path / "kernel"
    kernel.mkdir()
    (kernel / "max_user_instances").write_text("0\n")
    (kernel / "max_user_watches").write_text("1\n")
    monkeypatch.setattr(system_check, "_KERNEL", kernel)
    one, other = about(list(system_check.findings(CheckContext(config_of(tmp_path)))), "inotify")
    assert "sysctl -w fs.inotify.max_user_instances=" in one.next
    assert "sysctl -w fs.inotify.max_user_watches=" in other.next


def test_a_check_that_breaks_does_not_keep_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_: CheckContext) -> Iterator[Finding]:
        raise ValueError("of ours")

    monkeypatch.setattr("shipper.check.spools.findings", broken)
    every = findings(tmp_path)
    assert the_only(every, "spools").text == "this check failed: ValueError: of ours"
    assert about(every, "sqlite")
