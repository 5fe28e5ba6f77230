"""One request to a service, however it behaves, its secrets, and the values in Athena's answers."""

from __future__ import annotations

import gzip
import ipaddress
import socket
import ssl
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol, cast

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from moto import mock_aws
from urllib3.util import connection

from shared import athena, secret, web
from tests.factories import stand_in

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Mixed-Case: yes\r\n\r\nok"
PATIENCE = 30.0
"""Seconds, enough for a slow machine; an answer dripped here would last for minutes."""


class Serve(Protocol):
    """The fixture's value: a call starts a server, and `requests` has the requests to it."""

    requests: list[bytes]

    def __call__(self, *answers: bytes | Callable[[socket.socket], None], scheme: str = "http") -> str: ...


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start a server with these answers to its first, second ... connection; return its URL."""
    listeners: list[socket.socket] = []
    requests: list[bytes] = []

    def start(*answers: bytes | Callable[[socket.socket], None], scheme: str = "http") -> str:
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)

        def run() -> None:
            for answer in answers:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    if scheme == "http":
                        requests.append(connection.recv(65_536))
                    if callable(answer):
                        answer(connection)
                    else:
                        connection.sendall(answer)

        threading.Thread(target=run, daemon=True).start()
        return f"{scheme}://127.0.0.1:{listener.getsockname()[1]}/rows?key=secret"

    served = cast(Serve, start)
    served.requests = requests
    yield served
    for listener in listeners:
        listener.close()


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A key and a certificate for 127.0.0.1, in one file trusted by clients."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    built = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key()), False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + built.public_bytes(serialization.Encoding.PEM))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))
    web.connections.cache_clear()
    yield path
    web.connections.cache_clear()


class Drip:
    """Sends the start of an answer and then, every hundredth of a second, a little more: for minutes."""

    def __init__(self, start: bytes, piece: bytes, *, tls: Path | None = None) -> None:
        self.start, self.piece, self.tls = start, piece, tls
        self.left = threading.Event()
        """Set when the client has ended the connection."""

    def __call__(self, connection: socket.socket) -> None:
        try:
            if self.tls:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(self.tls)
                connection = context.wrap_socket(connection, server_side=True)
                connection.recv(65_536)
            connection.sendall(self.start)
            for _ in range(20_000):
                connection.sendall(self.piece)
                time.sleep(0.01)
        except OSError:
            self.left.set()
        finally:
            connection.close()


def read_slowly(connection: socket.socket) -> None:
    """Takes the request byte by byte."""
    with suppress(OSError):
        while connection.recv(1):
            time.sleep(0.01)


def say_nothing(connection: socket.socket) -> None:
    while connection.recv(65_536):
        pass


def redirect(location: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {location}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


def encoded(body: bytes, encoding: str = "gzip") -> bytes:
    head = f"HTTP/1.1 200 OK\r\nContent-Encoding: {encoding}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def test_an_answer_has_its_status_its_headers_in_lower_case_and_its_body(serve: Serve) -> None:
    answer = web.ask("POST", serve(OK), {"Authorization": "Bearer t"}, b"{}")

    assert (answer.status, answer.headers["x-mixed-case"], answer.body) == (200, "yes", b"ok")
    assert b"POST /rows?key=secret" in serve.requests[0] and b"Authorization: Bearer t" in serve.requests[0]


@pytest.mark.parametrize(
    ("sent", "body"),
    [
        pytest.param(encoded(gzip.compress(b"rows")), b"rows", id="compressed"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nro\r\n2\r\nws\r\n0\r\n\r\n",
            b"rows",
            id="in chunks",
        ),
        pytest.param(b"HTTP/1.1 204 Done\r\n\r\n", b"", id="empty"),
        pytest.param(b"HTTP/1.0 200 OK\r\n\r\nrows", b"rows", id="until the connection ends"),
        pytest.param(b"HTTP/1.1 500 No\r\nContent-Length: 4\r\n\r\nrows", b"rows", id="a status of 500"),
    ],
)
def test_every_whole_answer_is_read(serve: Serve, sent: bytes, body: bytes) -> None:
    assert web.ask("GET", serve(sent), {}).body == body


@pytest.mark.parametrize(
    ("sent", "says"),
    [
        pytest.param(b"", "no whole HTTP answer", id="cut before the status"),
        pytest.param(OK[:-1], "no whole HTTP answer", id="cut within the body"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nro",
            "no whole HTTP answer",
            id="cut within a chunk",
        ),
        pytest.param(b"SSH-2.0-OpenSSH\r\n", "no whole HTTP answer", id="not HTTP"),
        pytest.param(b"HTTP/1.1 103 Hints\r\n\r\n" + OK, "an answer of 103 before its own", id="hints"),
        pytest.param(encoded(b"rows"), "Content-Encoding", id="not compressed as it says"),
        pytest.param(encoded(gzip.compress(b"x" * 2000)), "more than 1,000 bytes", id="too large once decompressed"),
        pytest.param(
            encoded(gzip.compress(gzip.compress(b"x" * 5_000_000)), "gzip, gzip"), "more than 1,000 bytes", id="a bomb"
        ),
    ],
)
def test_no_whole_answer_is_unreachable_and_names_the_host_alone(serve: Serve, sent: Any, says: str) -> None:
    url = serve(sent)

    with pytest.raises(web.Unreachable) as raised:
        web.ask("POST", url, {"Authorization": "Bearer hidden"}, b"private", timeout=PATIENCE, largest=1000)

    assert says in str(raised.value) and url.split("/")[2] in str(raised.value)
    # As a log would show it, with its causes, but without the lines of this file.
    shown = "".join(line for line in traceback.format_exception(raised.value) if not line.startswith("  File"))
    assert not any(word in shown for word in ("secret", "hidden", "private"))


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
UNPACKED = b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nConnection: close\r\n\r\n"
DRIPS = {
    "the status line": (b"", b"H"),
    "the reason of the status": (b"HTTP/1.1 200 ", b"O"),
    "the name of a header": (b"HTTP/1.1 200 OK\r\nX-", b"x"),
    "one header after another": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n"),
    "answers of 100": (b"", b"HTTP/1.1 100 Continue\r\n\r\n"),
    "the body": (b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"),
    "the size of a chunk": (CHUNKED, b"0"),
    "the extension of a chunk": (CHUNKED + b"1;", b"x"),
    "chunks": (CHUNKED, b"1\r\nx\r\n"),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n"),
    "gzip blocks of nothing": (UNPACKED + gzip.compress(b"")[:10], b"\x00\x00\x00\xff\xff"),
    "gzip files of nothing": (UNPACKED, gzip.compress(b"")),
}


@pytest.mark.parametrize(("start", "piece"), DRIPS.values(), ids=DRIPS)
def test_a_server_that_drips_is_left_at_the_deadline(serve: Serve, start: bytes, piece: bytes) -> None:
    drip = Drip(start, piece)
    leave(drip, serve(drip))


def test_a_server_that_drips_over_tls_is_left_at_the_deadline(serve: Serve, certificate: Path) -> None:
    drip = Drip(CHUNKED, b"1\r\nx\r\n", tls=certificate)
    leave(drip, serve(drip, scheme="https"))


def test_a_server_that_drips_its_tls_handshake_is_left_at_the_deadline(serve: Serve) -> None:
    hello = Drip(b"\x16\x03\x03\x40\x00\x02\x00\x3f\xfc", b"x")
    leave(hello, serve(hello, scheme="https"))


def leave(drip: Drip, url: str) -> None:
    """Ask a dripping server: the call gives up in time, and the connection ends."""
    web.connections()  # reads this machine's certificates: it may take longer than the call
    began = time.monotonic()
    with pytest.raises(web.Unreachable, match=r"gave no whole answer within 0\.2 s"):
        web.ask("GET", url, {}, timeout=0.2)
    assert time.monotonic() - began < PATIENCE
    assert drip.left.wait(PATIENCE)


@pytest.mark.parametrize("server", [say_nothing, read_slowly])
def test_a_server_that_says_nothing_is_left_at_the_deadline(serve: Serve, server: Any) -> None:
    began = time.monotonic()
    with pytest.raises(web.Unreachable, match="gave no whole answer"):
        web.ask("POST", serve(server), {}, b"x" * 50_000_000, timeout=0.2)
    assert time.monotonic() - began < PATIENCE


def test_a_name_that_takes_for_ever_is_left_at_the_deadline_and_nothing_is_sent_later(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, look_up, may_answer = serve(OK), socket.getaddrinfo, threading.Event()

    def slowly(*arguments: Any, **options: Any) -> Any:
        may_answer.wait()
        return look_up(*arguments, **options)

    monkeypatch.setattr(connection, "socket", stand_in(socket, getaddrinfo=slowly))
    before = threading.active_count()
    with pytest.raises(web.Unreachable, match="gave no whole answer"):
        web.ask("POST", url, {}, b"{}", timeout=0.2)
    may_answer.set()
    end = time.monotonic() + PATIENCE
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert serve.requests in ([], [b""])


def test_a_redirect_takes_its_time_from_the_same_deadline(serve: Serve) -> None:
    def redirect_late(connection: socket.socket) -> None:
        time.sleep(0.3)
        with suppress(OSError):
            connection.sendall(redirect("/again"))

    with pytest.raises(web.Unreachable, match="gave no whole answer"):
        web.ask("GET", serve(*[redirect_late] * 6), {}, timeout=0.2)


def test_a_connection_is_used_again_over_tls_too(serve: Serve, certificate: Path) -> None:
    def twice(connection: socket.socket) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        with context.wrap_socket(connection, server_side=True) as encrypted:
            for _ in range(2):
                assert encrypted.recv(65_536)
                encrypted.sendall(OK)

    url = serve(twice, scheme="https")
    assert [web.ask("GET", url, {}, timeout=PATIENCE).body for _ in range(2)] == [b"ok", b"ok"]


def test_a_port_where_nobody_listens_and_a_name_that_does_not_exist_are_unreachable() -> None:
    # A port taken here, so nobody else gets it, but not listening.
    with socket.socket() as silent, pytest.raises(web.Unreachable, match="refused the connection"):
        silent.bind(("127.0.0.1", 0))
        web.ask("GET", f"http://127.0.0.1:{silent.getsockname()[1]}/", {})
    with pytest.raises(web.Unreachable, match="could not be resolved"):
        web.ask("GET", "http://nobody.invalid/", {})


def test_a_server_that_speaks_no_tls_is_unreachable(serve: Serve) -> None:
    with pytest.raises(web.Unreachable, match="could not agree on TLS"):
        web.ask("GET", serve(OK).replace("http:", "https:"), {})


def test_a_get_follows_redirects_within_its_own_origin(serve: Serve) -> None:
    assert web.ask("GET", serve(redirect("/other"), OK), {}).body == b"ok"
    assert b"GET /other " in serve.requests[1]


def test_no_request_goes_to_another_origin_and_no_post_is_redirected(serve: Serve) -> None:
    other = serve(OK)

    assert web.ask("GET", serve(redirect(other)), {"Authorization": "Bearer t"}).status == 302
    assert web.ask("POST", serve(redirect("/other", 307)), {}, b"{}").status == 307
    assert len(serve.requests) == 2


@pytest.mark.parametrize("location", ["http://[", "http://127.0.0.1:x/", "//[::1/", "http://127.0.0.1:99999/"])
def test_a_location_that_is_not_a_url_is_itself_the_answer(serve: Serve, location: str) -> None:
    assert web.ask("GET", serve(redirect(location)), {}).status == 302


def test_endless_redirects_are_unreachable(serve: Serve) -> None:
    with pytest.raises(web.Unreachable, match="redirected more than 5 times"):
        web.ask("GET", serve(*[redirect("/again")] * 6), {})


@pytest.mark.parametrize("value", ["hidden\r\nX-Other: 1", "hidden\n", "hiddén", "hidden\x00"], ids=ascii)
def test_a_header_that_cannot_be_sent_is_named_without_its_value(value: str) -> None:
    with pytest.raises(ValueError, match="Authorization") as raised:
        web.ask("GET", "http://127.0.0.1:1/", {"Authorization": value})
    assert "hidd" not in str(raised.value)


@pytest.mark.parametrize("url", ["", "ftp://host/", "https:///path", "//host/"])
def test_a_url_that_is_not_http_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https://"):
        web.ask("GET", url, {})


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"retry-after": "120"}, 120.0, id="seconds"),
        pytest.param({"retry-after": " 0 "}, 0.0, id="zero"),
        pytest.param({"retry-after": "Sat, 21 Nov 2026 10:00:30 GMT"}, 30.0, id="a date"),
        pytest.param({"retry-after": "Sat, 21 Nov 2026 09:00:00 GMT"}, 0.0, id="a date gone by"),
        pytest.param({"retry-after": "-5"}, None, id="negative"),
        pytest.param({"retry-after": "soon"}, None, id="a word"),
        pytest.param({"retry-after": "²"}, None, id="a digit that is not a number"),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: dict[str, str], seconds: float | None) -> None:
    now = 1_795_255_200.0  # 2026-11-21 10:00:00 UTC

    assert web.retry_after(web.Answer(503, header, b""), now) == seconds


@pytest.mark.parametrize(
    ("attempt", "longest"),
    [(1, 1.0), (2, 2.0), (5, 16.0), (11, 900.0), (100_000, 900.0)],
    ids=lambda value: f"{value:g}",
)
def test_backoff_is_anything_up_to_a_bound_that_doubles(attempt: int, longest: float) -> None:
    assert web.backoff(attempt, random=lambda: 0.0) == 0.0
    assert web.backoff(attempt, random=lambda: 1.0) == longest
    assert web.backoff(attempt, at_least=60.0, random=lambda: 0.5) == 60.0 + longest / 2


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch, unread_secrets: None) -> Iterator[Any]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with mock_aws():
        yield boto3.client("secretsmanager")


def test_a_secret_is_read_once_in_five_minutes_or_when_a_fresh_one_is_asked_for(
    secrets: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    arn = secrets.create_secret(Name="s", SecretString='{"token": "old", "scopes": ["a"]}')["ARN"]
    assert (secret.read(arn, "token"), secret.read(arn, "scopes")) == ("old", ["a"])

    secrets.put_secret_value(SecretId=arn, SecretString='{"token": "new"}')
    assert secret.read(arn, "token") == "old"
    assert secret.read(arn, "token", fresh=True) == "new"

    secrets.put_secret_value(SecretId=arn, SecretString='{"token": "newer"}')
    later = time.monotonic() + secret.CACHE_SECONDS + 1
    monkeypatch.setattr(secret, "time", stand_in(time, monotonic=lambda: later))
    assert secret.read(arn, "token") == "newer"


@pytest.mark.parametrize(
    "text",
    [None, "{}", "hidden", '["hidden"]', '{"other": "hidden"}', "[" * 30_000],
    ids=lambda text: str(text)[:20],
)
def test_a_key_that_is_missing_is_named_and_nothing_else_is_shown(secrets: Any, text: str | None) -> None:
    arn = secrets.create_secret(Name="s", **({} if text is None else {"SecretString": text}))["ARN"]

    with pytest.raises(secret.SecretMissing, match=r'no key "token".*put-secret-value') as raised:
        secret.read(arn, "token")
    assert "hidden" not in str(raised.value)

    # Somebody sets it: no cache is in the way.
    secrets.put_secret_value(SecretId=arn, SecretString='{"token": "now"}')
    assert secret.read(arn, "token") == "now"


@pytest.mark.parametrize(
    ("kind", "value", "found"),
    [
        ("bigint", "9007199254740993", 9007199254740993),
        ("integer", "-1", -1),
        ("double", "1.5", 1.5),
        ("double", "NaN", "NaN"),
        ("float", "Infinity", "Infinity"),
        ("decimal(38,2)", "1.10", "1.10"),
        ("boolean", "true", True),
        ("boolean", "false", False),
        ("timestamp", "2026-11-21 10:00:00.000", "2026-11-21 10:00:00.000"),
        ("varchar", "", ""),
        ("varchar", "7", "7"),
        ("array(varchar)", "[a, b]", "[a, b]"),
        ("bigint", None, None),
        ("varchar", None, None),
    ],
)
def test_a_value_has_the_type_of_its_column(kind: str, value: str | None, found: object) -> None:
    assert athena.typed(kind, value) == found and type(athena.typed(kind, value)) is type(found)
