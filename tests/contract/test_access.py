"""Tokens, cookies, certificates, proxies against real servers: who gets them, and who never."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from shipper.config.load import load
from shipper.errors import Unreachable
from shipper.http_client.client import HttpClient
from shipper.http_client.credentials import Credentials
from shipper.service import Service, ship_once
from shipper.sinks.options import HttpOptions, from_settings
from shipper.sinks.outcome import Disposition, classify_failure
from shipper.sinks.processor.client import ProcessorClient
from tests.kit.certificates import Authority, Files
from tests.kit.command import lens_ship, start_lens_ship
from tests.kit.delivery import arrived
from tests.kit.faulty_receiver import Answer, FaultyReceiver
from tests.kit.shipping import config, goodbye, spool, step
from tests.kit.spools import PATIENCE_SECONDS, identity
from tests.kit.tls_receiver import Guarded, TlsReceiver

BODY = b'{"workload_uid":"w","metrics":[{"name":"loss","value":1,"step":1}]}'
HOST = "127.0.0.1"
TOKEN = "tok-5ecret-one"
NEXT = "tok-5ecret-two"
COOKIE = "session=c00kie-5ecret"


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ours"))


@pytest.fixture(scope="module")
def stranger(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("strangers"))


@pytest.fixture(scope="module")
def served(authority: Authority) -> Files:
    return authority.files(HOST)


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "secrets" / "token"
    file.parent.mkdir()
    file.write_text(f"{TOKEN}\n")
    return file


Serve = Callable[..., FaultyReceiver]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start receivers that end with the test."""
    running: list[FaultyReceiver] = []

    def start(kind: type[FaultyReceiver] = FaultyReceiver, **more: Any) -> FaultyReceiver:
        receiver = kind(path=tmp_path / f"received-{len(running)}.sqlite", **more)
        receiver.start()
        running.append(receiver)
        return receiver

    yield start
    for receiver in running:
        receiver.stop()


def poster(url: str, **access: Any) -> HttpClient:
    return HttpClient(
        user_agent="test",
        connect_seconds=PATIENCE_SECONDS,
        read_seconds=PATIENCE_SECONDS,
        credentials=Credentials(url=url, **access),
    )


def post(receiver: FaultyReceiver, **access: Any) -> int:
    url = receiver.url + "/wandb/metrics"
    return poster(receiver.url, **access).post(url, BODY, {}).status


def failure(url: str, **access: Any) -> Unreachable:
    with pytest.raises(Unreachable) as raised:
        poster(url, **access).post(url + "/wandb/metrics", BODY, {})
    return raised.value


# --- who gets the secrets -------------------------------------------------------------------------


def test_token_and_cookie_go_to_the_operators_own_address(
    serve: Serve, token: Path, tmp_path: Path
) -> None:
    cookie = tmp_path / "cookie"
    cookie.write_text(COOKIE)
    receiver = serve()
    assert post(receiver, token_file=token, cookie_file=cookie) == 200
    (seen,) = receiver.seen
    assert seen.headers["authorization"] == f"Bearer {TOKEN}"
    assert seen.headers["cookie"] == COOKIE


def test_an_address_that_a_job_has_recorded_gets_neither_token_nor_certificate(
    serve: Serve, token: Path
) -> None:
    ours, theirs = serve(), serve()
    sender = poster(ours.url, token_file=token)
    sender.post(theirs.url + "/wandb/metrics", BODY, {})
    assert "authorization" not in theirs.seen[0].headers
    sender.post(ours.url.replace("/v1", "/api/v1") + "/wandb/metrics", BODY, {})
    assert "authorization" in ours.seen[0].headers, "the other prefix is the same origin"


@pytest.mark.parametrize(
    ("mine", "other"),
    [
        ("https://host/v1", "http://host/v1"),
        ("http://host/v1", "http://host:81/v1"),
        ("http://host/v1", "http://host.example/v1"),
        ("http://host/v1", "http://elsewhere@host.evil/v1"),
        ("", "http://host/v1"),
        ("http://host/v1", "http://[oops"),
    ],
)
def test_another_scheme_host_or_port_is_another_origin(mine: str, other: str) -> None:
    assert not Credentials(url=mine).is_for(other)


@pytest.mark.parametrize("other", ["http://HOST:80/x", "http://host/api/v1"])
def test_case_default_port_and_path_make_no_other_origin(other: str) -> None:
    assert Credentials(url="http://host/v1").is_for(other)


def test_a_token_that_changes_is_used_from_the_next_request_on(serve: Serve, token: Path) -> None:
    receiver = serve()
    sender = poster(receiver.url, token_file=token)
    sender.post(receiver.url + "/wandb/metrics", BODY, {})
    fresh = token.with_name("fresh")
    fresh.write_text(NEXT)
    os.replace(fresh, token)
    sender.post(receiver.url + "/wandb/metrics", BODY, {})
    assert [seen.headers["authorization"] for seen in receiver.seen] == [
        f"Bearer {TOKEN}",
        f"Bearer {NEXT}",
    ]


def test_a_token_that_is_rotated_behind_a_link_is_noticed(serve: Serve, tmp_path: Path) -> None:
    """Kubernetes mounts `token -> ..data/token` and turns the link `..data` to another folder."""
    for number, content in enumerate([TOKEN, NEXT]):
        (tmp_path / f"..{number}").mkdir()
        (tmp_path / f"..{number}" / "token").write_text(content)
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "token").symlink_to("..data/token")
    receiver = serve()
    sender = poster(receiver.url, token_file=tmp_path / "token")
    sender.post(receiver.url + "/wandb/metrics", BODY, {})
    (tmp_path / "..new").symlink_to("..1")
    os.replace(tmp_path / "..new", tmp_path / "..data")
    sender.post(receiver.url + "/wandb/metrics", BODY, {})
    assert receiver.seen[1].headers["authorization"] == f"Bearer {NEXT}"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read"),
        (b"", "is empty"),
        (b" \n", "is empty"),
        (b"one\r\nX-Evil: 2", "cannot be part of one header line"),
        ("t\u00f6ken".encode(), "cannot be part of one header line"),
        (b"x" * 70_000, "cannot be part of one header line"),
    ],
)
def test_without_a_usable_token_nothing_is_sent_and_all_is_kept(
    serve: Serve, tmp_path: Path, content: bytes | None, told: str
) -> None:
    receiver, file = serve(), tmp_path / "token"
    if content is not None:
        file.write_bytes(content)
    missing = failure(receiver.url, token_file=file)
    assert (missing.reason, missing.sent) == ("no-credential", False)
    assert f"token_file: {file} " in missing.detail
    assert told in missing.detail
    assert receiver.seen == []
    outcome = classify_failure(missing, tries=9)
    assert (outcome.disposition, outcome.scope, outcome.needs_operator) == (
        Disposition.RETRY,
        "sink",
        True,
    )


# --- certificates ---------------------------------------------------------------------------------


def test_a_server_of_the_operators_authority_is_believed(
    serve: Serve, authority: Authority, served: Files
) -> None:
    assert post(serve(TlsReceiver, files=served), ca_file=authority.ca) == 200


def test_a_client_certificate_is_shown_to_who_asks(
    serve: Serve, authority: Authority, served: Files
) -> None:
    receiver = serve(TlsReceiver, files=served, clients=authority.ca)
    client = authority.files("shipper")
    access = {"client_cert_file": client.cert, "client_key_file": client.key}
    assert post(receiver, ca_file=authority.ca, **access) == 200


FAILURES: dict[str, str] = {
    "expired": "renew it there",
    "other name": "is for another name",
    "stranger": "set ca_file",
    "no client certificate": "client_cert_file",
    "a stranger's client certificate": "client_cert_file",
    "no tls there": "does not speak TLS on this port",
    "tls there": "https://",
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_handshake_that_fails_says_what_to_do_and_is_retried(
    serve: Serve, authority: Authority, stranger: Authority, served: Files, case: str
) -> None:
    access: dict[str, Any] = {"ca_file": authority.ca}
    files, clients = served, None
    if case == "expired":
        files = authority.files(HOST, expired=True)
    elif case == "other name":
        files = authority.files("processor.example")
    elif case == "stranger":
        access = {}
    elif case == "no client certificate":
        clients = authority.ca
    elif case == "a stranger's client certificate":
        clients, other = authority.ca, stranger.files("shipper")
        access.update(client_cert_file=other.cert, client_key_file=other.key)
    if case == "no tls there":
        url = serve().url.replace("http:", "https:")
    else:
        url = serve(TlsReceiver, files=files, clients=clients).url
    if case == "tls there":
        url = url.replace("https:", "http:")
    failed = failure(url, **access)
    assert failed.reason in ("tls", "connection-lost")
    assert FAILURES[case] in failed.detail
    for tries in (1, 2, 50):
        assert classify_failure(failed, tries=tries).disposition is Disposition.RETRY


def test_an_authority_that_is_replaced_on_disk_is_used_without_a_restart(
    serve: Serve, authority: Authority, stranger: Authority, served: Files, tmp_path: Path
) -> None:
    receiver, file = serve(TlsReceiver, files=served), tmp_path / "ca.pem"
    file.write_bytes(stranger.ca.read_bytes())
    sender = poster(receiver.url, ca_file=file)
    with pytest.raises(Unreachable, match="set ca_file"):
        sender.post(receiver.url + "/wandb/metrics", BODY, {})
    (tmp_path / "new").write_bytes(authority.ca.read_bytes())
    os.replace(tmp_path / "new", file)
    assert sender.post(receiver.url + "/wandb/metrics", BODY, {}).status == 200


def test_a_key_with_a_passphrase_is_a_problem_and_no_question(
    authority: Authority, tmp_path: Path
) -> None:
    """OpenSSL would ask at the terminal, and the service would wait there for ever."""
    from cryptography.hazmat.primitives import serialization as form

    client = authority.files("shipper")
    key = form.load_pem_private_key(client.key.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        key.private_bytes(
            form.Encoding.PEM,
            form.PrivateFormat.PKCS8,
            form.BestAvailableEncryption(b"phrase"),
        )
    )
    access = {"client_cert_file": client.cert, "client_key_file": locked}
    failed = failure("https://127.0.0.1:9/v1", **access)
    assert failed.reason == "no-credential"
    assert "without a passphrase" in failed.detail
    other = authority.files("other")
    crossed = {"client_cert_file": client.cert, "client_key_file": other.key}
    assert "is not the key of" in failure("https://127.0.0.1:9/v1", **crossed).detail


# --- proxies --------------------------------------------------------------------------------------


@pytest.mark.parametrize("proxy", ["", "environment", "url"])
def test_a_proxy_is_used_only_when_the_settings_say_so(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    receiver, between = serve(), serve()
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:{between.port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    if proxy == "url":
        monkeypatch.delenv("http_proxy")
        monkeypatch.delenv("HTTP_PROXY")
    given = f"http://{HOST}:{between.port}" if proxy == "url" else proxy
    post(receiver, proxy=given)
    assert (len(receiver.seen), len(between.seen)) == ((1, 0) if not proxy else (0, 1))


def test_a_proxy_that_is_away_is_named() -> None:
    failed = failure("https://127.0.0.1:9/v1", proxy="http://127.0.0.1:9")
    assert failed.reason == "proxy"
    assert "the setting proxy" in failed.detail


# --- the service ----------------------------------------------------------------------------------


def write(folder: Path) -> None:
    who = identity(workload_uid="w")
    spool(folder / "spool", [*(step(number) for number in range(20)), goodbye()], who=who)


@contextmanager
def running(service: Service) -> Iterator[None]:
    thread = threading.Thread(target=service.run)
    thread.start()
    try:
        yield
    finally:
        service.stop()
        thread.join(PATIENCE_SECONDS)
        assert not thread.is_alive()


def test_a_token_that_is_put_right_is_tried_at_once_however_long_the_pause(
    serve: Serve, token: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shipper.delivery.backoff.ALARM_FIRST_SECONDS", 1e9)
    write(tmp_path)
    receiver = serve(otherwise=Guarded(NEXT))
    settings = config(tmp_path, processor_url=receiver.url, token_file=token)
    with running(Service(settings)):
        receiver.wait_for(lambda seen: len(seen) == 1, PATIENCE_SECONDS)
        token.write_text(NEXT)
        receiver.wait_for(lambda seen: seen[-1].status == 200, PATIENCE_SECONDS)
    assert sorted(arrived(receiver.store, "w").steps) == list(range(20))


def test_everything_goes_through_tls_with_token_and_client_certificate(
    serve: Serve, authority: Authority, served: Files, token: Path, tmp_path: Path
) -> None:
    write(tmp_path)
    receiver = serve(TlsReceiver, files=served, clients=authority.ca, otherwise=Guarded(TOKEN))
    client = authority.files("shipper")
    settings = config(
        tmp_path,
        processor_url=receiver.url,
        token_file=token,
        ca_file=authority.ca,
        client_cert_file=client.cert,
        client_key_file=client.key,
    )
    assert ship_once(settings, timeout=PATIENCE_SECONDS) == []
    assert sorted(arrived(receiver.store, "w").steps) == list(range(20))


def test_a_secret_is_in_nothing_that_is_written_said_or_shown(
    serve: Serve, token: Path, tmp_path: Path
) -> None:
    """The receiver repeats what it was sent, in refusals for now and refusals for good."""
    write(tmp_path)
    cookie = tmp_path / "secrets" / "cookie"
    cookie.write_text(COOKIE)
    receiver = serve(otherwise=Guarded("another one"))
    flags = ["--spool", str(tmp_path / "spool"), "--state", str(tmp_path / "state")]
    flags += ["--processor-url", receiver.url, "--cookie-file", str(cookie)]
    flags += ["--token-file", str(token), "--log-level", "debug"]
    service = start_lens_ship("run", "--log-format", "json", *flags)
    receiver.wait_for(lambda seen: seen and seen[0].status == 401, PATIENCE_SECONDS)
    echo = Answer(status=413, body=f"Bearer {TOKEN} {COOKIE}", content_type="text/plain")
    receiver.otherwise = echo
    service_said = [Path(f"/proc/{service.pid}/cmdline").read_text()]
    service.terminate()
    service_said.append(service.communicate(timeout=PATIENCE_SECONDS)[1])
    once = lens_ship("run", "--once", "--timeout", "20", *flags)
    said = [once]
    said += [lens_ship("audit", "--json", *flags[:4]), lens_ship("config", "show", *flags)]
    said += [lens_ship("dead-letter", "list", "--json", *flags[2:4])]
    said += [
        lens_ship("dead-letter", "retry", *flags),
        lens_ship("replay", "--dry-run", *flags[:8]),
    ]
    said += [lens_ship("check", *flags), lens_ship("status", "--json", *flags[:4])]
    said += [lens_ship("inspect", str(tmp_path / "spool")), lens_ship("tail", *flags[:2])]
    everything = "".join([*service_said, *(one.out + one.err for one in said)]).encode()
    for path in (tmp_path / "spool", tmp_path / "state"):
        everything += b"".join(f.read_bytes() for f in path.rglob("*") if f.is_file())
    assert b"***" in everything, "what was echoed has come as far as here"
    for secret in (TOKEN, COOKIE, COOKIE.partition("=")[2]):
        assert secret.encode() not in everything


def test_nothing_that_holds_a_secret_shows_it(
    token: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    given = {"spool": "/spool", "processor_url": "http://127.0.0.1:9/v1", "token_file": token}
    settings = load(given, {}, sends=True)
    access = from_settings(HttpOptions, settings).credentials()
    shown = [
        repr(settings),
        repr(access),
        repr(access.read()),
        repr(ProcessorClient.of(from_settings(HttpOptions, settings))),
    ]
    with pytest.raises(Unreachable) as raised:
        poster("http://127.0.0.1:9", token_file=token).get("http://127.0.0.1:9/v1")
    shown += [repr(raised.value), str(raised.value), caplog.text]
    assert TOKEN not in "".join(shown)


def test_a_password_in_the_address_that_a_job_has_set_is_not_recorded() -> None:
    from spooler.spool.identity import Identity, from_environ

    environ = {"PRIMUS_LENS_API_BASE_URL": f"http://me:{TOKEN}@host:8989/v1"}
    who = from_environ(environ, spool="s", created=1.0, pid=1, host="h", version="")
    assert who.api_base_url == "http://host:8989/v1"
    older = {**who.to_map(), "api_base_url": environ["PRIMUS_LENS_API_BASE_URL"]}
    assert Identity.from_map(older) == who
