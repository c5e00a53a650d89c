"""Asks a telemetry-processor whether it is there and knows the jobs, and sends it nothing.

The question is the one for its pods, which every processor answers and which changes nothing.
"""

from __future__ import annotations

import email.utils
import os
import stat
import time
from collections.abc import Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

from shipper.errors import Unreachable
from shipper.finding import Finding, fail, ok, warn
from shipper.http_client import Answer, tls
from shipper.http_client.client import HttpClient
from shipper.http_client.credentials import Credentials
from shipper.http_client.redact import masked
from shipper.sinks.processor.classify import is_processors, pods_in
from shipper.sinks.processor.client import PODS_PATH, other_prefix
from spooler.spool.identity import Identity

CLOCK_SECONDS = 5.0  # a Date header tells whole seconds, and an answer takes its time
EXPIRY_SECONDS = 14 * 86400.0
_NAMED = 3  # pods of one kind
_NEXT = {
    "refused": "start the processor, or correct the port: it listens on 8989",
    "no-connection": "correct the host name in the URL, or check this host's DNS",
    "connect-timeout": "check firewalls and network policies between this node and the processor",
    "timeout": "check the processor's own log; raise read_timeout if it is only slow",
    "tls": "follow the message; until then everything is kept",
    "no-credential": "correct the file",
    "proxy": "correct the setting proxy",
    "bad-url": "correct processor_url",
    "connection-lost": "check what listens on that port",
}


def probe(
    sink: str, http: HttpClient, url: str, identities: Sequence[Identity]
) -> Iterator[Finding]:
    """Findings for the operator's address, or for each that a job has recorded."""
    recorded = sorted({who.api_base_url.rstrip("/") for who in identities if who.api_base_url})
    bases = [url] if url else recorded
    if not bases:
        yield warn(
            sink,
            "no processor_url, and no spool that names one: nothing can be sent",
            "give --processor-url http://HOST:8989/v1, or set PRIMUS_LENS_API_BASE_URL in the jobs",
        )
    for base in bases:
        mine = [who for who in identities if url or who.api_base_url.rstrip("/") == base]
        yield from _probe(sink, http, base, mine)
    yield from _nameless(identities)


def _probe(
    sink: str, http: HttpClient, base: str, identities: Sequence[Identity]
) -> Iterator[Finding]:
    try:
        answering, answer, seconds = _ask(http, base)
    except Unreachable as failure:
        step = _NEXT.get(failure.reason, "everything is kept until it works")
        yield fail(sink, f"{masked(base)}: {failure.reason}: {failure.detail}", step)
        return
    yield _judge(sink, answering, answer, seconds, base, http.credentials)
    yield from _security(base, http.credentials)
    yield from _clock(answer)
    pods = pods_in(answer)
    if pods is not None:
        yield from _pods(set(pods), identities)


def _ask(http: HttpClient, base: str) -> tuple[str, Answer, float]:
    """The base that answers as a processor, else the one given; its answer; how long it took."""
    begun = time.monotonic()
    answer = http.get(base + PODS_PATH)
    other = other_prefix(base)
    if answer.status == 404 and other is not None:
        second = http.get(other + PODS_PATH)
        if is_processors(second):
            return other, second, time.monotonic() - begun
    return base, answer, time.monotonic() - begun


def _judge(
    sink: str, answering: str, answer: Answer, seconds: float, base: str, credentials: Credentials
) -> Finding:
    name = f"{masked(answering)}"
    if pods_in(answer) is not None and answering != base:
        return warn(
            sink,
            f"{name} is a telemetry-processor; {masked(base)} answers 404",
            f"set processor_url to {name}: it spares a request at each start",
        )
    if pods_in(answer) is not None:
        return ok(sink, f"{name} is a telemetry-processor ({seconds * 1000:.0f} ms)")
    status = f"{name} answers {answer.status}"
    if answer.status in (401, 403):
        return fail(sink, f"{status}: {_refused(credentials, base)}", "give the right one")
    if 300 <= answer.status < 400:
        to = answer.headers.get("location", "nowhere").partition("?")[0]
        return fail(sink, f"{status} to {to}", "set processor_url to the final address")
    if answer.status >= 500 or answer.status in (408, 425, 429):
        return warn(sink, status, "check the processor. All records are kept until it answers")
    return fail(
        sink,
        f"{status}, which is not the answer of a telemetry-processor",
        "correct processor_url: host, port (8989) and prefix (/v1)",
    )


def _refused(credentials: Credentials, base: str) -> str:
    files = [str(file) for file in (credentials.token_file, credentials.cookie_file) if file]
    if files and credentials.is_for(base):
        return f"it rejects the content of {' and '.join(files)}"
    if files:
        return "a job recorded this address, and the token is not sent there"
    return "it needs a token or a cookie: token_file and cookie_file are not set"


def _security(base: str, credentials: Credentials) -> Iterator[Finding]:
    parts = urlsplit(base)
    secrets = [name for name in ("token_file", "cookie_file") if getattr(credentials, name)]
    if credentials.is_for(base) and secrets:
        named = " and ".join(f"{name} {getattr(credentials, name)}" for name in secrets)
        yield ok("access", f"sends {named}")
        for name in (*secrets, "headers_file", "client_key_file"):
            file = getattr(credentials, name)
            if file is not None and _is_public(file):
                yield warn("access", f"every user of this host can read {file}", f"chmod o= {file}")
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            yield warn("access", "over http, where others can read it", "use https://")
    if parts.scheme == "https" and not credentials.proxy:
        yield from _certificate(parts.hostname or "", parts.port or 443, credentials, base)


def _is_public(file: Path) -> bool:
    """Whether other users can read it. Only its pod sees the files of a Kubernetes secret."""
    try:
        readable = bool(os.stat(file).st_mode & stat.S_IROTH)
    except OSError:
        return False
    return readable and "KUBERNETES_SERVICE_HOST" not in os.environ


def _certificate(host: str, port: int, credentials: Credentials, base: str) -> Iterator[Finding]:
    try:
        keys = credentials.read()
        pair = keys.pair if credentials.is_for(base) else ("", None)
        until = tls.expiry_of(host, port, seconds=5.0, authorities=keys.authorities, pair=pair)
    except (Unreachable, OSError) as error:
        yield warn("tls", f"{host}:{port}: {error}", "run the check again; the receiver did answer")
        return
    left = until - time.time()
    text = f"the certificate of {host} is valid for {left / 86400:.0f} days"
    if left < EXPIRY_SECONDS:
        yield warn("tls", text, "renew it at the receiver before it ends")
    else:
        yield ok("tls", text)


def _clock(answer: Answer) -> Iterator[Finding]:
    try:
        theirs = email.utils.parsedate_to_datetime(answer.headers.get("date", "")).timestamp()
    except (TypeError, ValueError, OverflowError, IndexError):
        return
    difference = time.time() - theirs
    if abs(difference) > CLOCK_SECONDS:
        ahead = "ahead of" if difference > 0 else "behind"
        yield warn(
            "clock",
            f"this host's clock is {abs(difference):.0f} s {ahead} the receiver's: curves are"
            " shifted by that much",
            "timedatectl set-ntp true, on the host that is wrong",
        )
    else:
        yield ok("clock", "agrees with the receiver's")


def _pods(known: set[str], identities: Sequence[Identity]) -> Iterator[Finding]:
    """Whether the processor knows the pods of jobs that do not name their workload."""
    asked = sorted({who.pod_name for who in identities if not who.workload_uid and who.pod_name})
    unknown = [pod for pod in asked if pod not in known]
    for pod in unknown[:_NAMED]:
        yield warn(
            "pod",
            f"{pod} is not known to the processor: its job has ended, or is younger than half a"
            " minute, or the name is wrong",
            "set WORKLOAD_UID in the job, which needs no request. `lens-ship dead-letter` keeps"
            " what is rejected",
        )
    if len(unknown) > _NAMED:
        yield warn("pod", f"and {len(unknown) - _NAMED} more pods", "the same as above")
    if asked and not unknown:
        yield ok("pod", f"{', '.join(asked[:_NAMED])}: known to the processor")


def _nameless(identities: Sequence[Identity]) -> Iterator[Finding]:
    nameless = [who.spool for who in identities if not who.workload_uid and not who.pod_name]
    if nameless:
        yield fail(
            "pod",
            f"neither WORKLOAD_UID nor POD_NAME is named by {len(nameless)} of the spools (the"
            f" first is {nameless[0]}): the processor refuses their records",
            "set WORKLOAD_UID in the jobs. `lens-ship replay SPOOL --spool ROOT --as-workload UID`"
            " sends what the processor has refused",
        )


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
