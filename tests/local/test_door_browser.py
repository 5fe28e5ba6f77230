"""A page in a browser can do nothing to its reader's local AWS.

Each page does all a page can, with a signature in the query string as anybody can make one. The pages are those of
another site, of another port of this machine, of a sandbox (whose origin is null), and of a name rebound to this
machine while its page is open (then of the server's own origin).
"""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
from botocore.auth import S3SigV4QueryAuth, SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from playwright.sync_api import Frame, Page

from tests.browser import Site
from tests.local_process import LocalProcess

pytestmark = pytest.mark.slow

KEYS = Credentials("test", "test")
TRUST = '{"Version":"2012-10-17","Statement":[]}'
ORIGINS = ("another site", "another port", "sandbox", "rebound name")

READ = """async ([url, options]) => {
  try { return await (await fetch(url, options)).text() } catch (error) { return "" }
}"""
FETCH = """async (url) => {
  try { return await (await fetch(url, %s)).text() } catch (error) { return "" }
}"""
ELEMENT = """(url) => new Promise((resolve) => {
  const element = document.createElementNS("http://www.w3.org/1999/xhtml", "%s");
  element.onload = element.onerror = resolve;
  Object.assign(element, %s);
  document.documentElement.append(element);
})"""
SOCKET = "(url) => new Promise((resolve) => { const opened = new %s; opened.onopen = opened.onerror = resolve })"
WITHIN_SECONDS = """([way, url]) => Promise.race([
  eval(way)(url), new Promise((_, reject) => setTimeout(reject, 20000, "no answer"))
])"""
# A page's ways to send a request, as a method and JavaScript lasting until the answer.
WAYS = {
    "simple-post": ("POST", FETCH % '{method: "POST", body: ""}'),
    "no-cors-post": ("POST", FETCH % '{method: "POST", body: "", mode: "no-cors"}'),
    "preflighted-post": ("POST", FETCH % '{method: "POST", headers: {"x-amz-target": "x"}}'),
    "put": ("PUT", FETCH % '{method: "PUT"}'),
    "get": ("GET", FETCH % "{}"),
    "no-cors-get": ("GET", FETCH % '{mode: "no-cors", referrerPolicy: "no-referrer"}'),
    "image": ("GET", ELEMENT % ("img", '{src: url, referrerPolicy: "no-referrer"}')),
    "script": ("GET", ELEMENT % ("script", "{src: url}")),
    "style-sheet": ("GET", ELEMENT % ("link", '{rel: "stylesheet", href: url}')),
    "prefetch": ("GET", ELEMENT % ("link", '{rel: "prefetch", href: url}')),
    "frame": ("GET", ELEMENT % ("iframe", "{src: url}")),
    "event-source": ("GET", SOCKET % "EventSource(url)"),
    "web-socket": ("GET", SOCKET % 'WebSocket(url.replace("http:", "ws:"))'),
}
FORM = """(url) => {
  const form = document.createElementNS("http://www.w3.org/1999/xhtml", "form");
  Object.assign(form, {method: "post", action: url, target: "%s"});
  document.documentElement.append(form);
  form.submit();
}"""
# Those whose answer a page cannot wait for.
UNHEARD_WAYS = {
    "beacon": ("POST", '(url) => { navigator.sendBeacon(url, "") }'),
    "form": ("POST", FORM % "_self"),
    "form-in-a-new-tab": ("POST", FORM % "_blank"),
    "navigation": ("GET", "(url) => { location.href = url }"),
    "new-tab": ("GET", '(url) => { open(url, "_blank", "noopener") }'),
}


@pytest.fixture(scope="module")
def aws(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalProcess]:
    """A local AWS with something to lose."""
    with LocalProcess(tmp_path_factory.mktemp("aws")) as aws:
        aws.client("s3").create_bucket(Bucket="bucket")
        aws.client("s3").put_object(Bucket="bucket", Key="key", Body=b"secret")
        aws.client("iam").create_role(RoleName="role", AssumeRolePolicyDocument=TRUST)
        yield aws


def open_page(page: Page, site: Site, aws: LocalProcess, origin: str) -> tuple[Frame, str]:
    """Open a page of the origin; returns its frame, and the endpoint of the local AWS as it calls it."""
    if origin == "rebound name":
        # A refusal is of the same origin as the name's earlier page.
        page.goto(f"http://evil.test:{aws.port}/")
        return page.main_frame, f"http://evil.test:{aws.port}"
    site.pages["/sandbox"] = '<iframe sandbox="allow-scripts allow-forms allow-popups" src="/"></iframe>'
    host = "127.0.0.1" if origin == "another port" else "evil.test"
    page.goto(site.url(host, "/sandbox" if origin == "sandbox" else "/"))
    return page.frames[-1], aws.endpoint


def signed(method: str, url: str, signer: Any = SigV4QueryAuth, service: str = "iam") -> AWSRequest:
    """A request that anybody can sign."""
    request = AWSRequest(method, url)
    signer(KEYS, service, "us-east-1").add_auth(request)
    return request


def creation(method: str, endpoint: str, role: str) -> str:
    """The signed URL of a call of CreateRole."""
    call = {"Action": "CreateRole", "Version": "2010-05-08", "RoleName": role, "AssumeRolePolicyDocument": TRUST}
    return str(signed(method, f"{endpoint}/?{urlencode(call)}").url)


def roles(aws: LocalProcess) -> list[str]:
    return [role["RoleName"] for role in aws.client("iam").list_roles()["Roles"]]


@pytest.mark.parametrize("origin", ORIGINS)
def test_no_page_changes_anything(aws: LocalProcess, site: Site, page: Page, origin: str) -> None:
    frame, endpoint = open_page(page, site, aws, origin)
    for way, (method, script) in WAYS.items():
        frame.evaluate(WITHIN_SECONDS, [script, creation(method, endpoint, way)])
    for way, (method, script) in UNHEARD_WAYS.items():
        frame, endpoint = open_page(page.context.new_page(), site, aws, origin)
        url = creation(method, endpoint, way)
        with page.context.expect_event("response", lambda answer, url=url: answer.url == url):
            frame.evaluate(script, url)
    assert roles(aws) == ["role"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_no_page_resets_or_configures_the_emulator(aws: LocalProcess, site: Site, page: Page, origin: str) -> None:
    frame, endpoint = open_page(page, site, aws, origin)
    for path in ("/_ministack/reset", "/_ministack/config", "/%5Fministack/reset", "/_aws/../_ministack/reset"):
        frame.evaluate(WITHIN_SECONDS, [WAYS["no-cors-post"][1], endpoint + path])
    assert roles(aws) == ["role"]


@pytest.mark.parametrize("origin", ORIGINS)
def test_no_page_reads_anything(aws: LocalProcess, site: Site, page: Page, origin: str) -> None:
    frame, endpoint = open_page(page, site, aws, origin)
    key = f"{endpoint}/bucket/key"
    in_headers = signed("GET", key, SigV4Auth, "s3")
    asked = (
        (signed("GET", key, S3SigV4QueryAuth, "s3").url, {}),
        (in_headers.url, {"headers": dict(in_headers.headers.items())}),
        (signed("GET", f"{endpoint}/?Action=ListRoles&Version=2010-05-08").url, {}),
        (f"{endpoint}/_ministack/health", {}),
    )
    for url, options in asked:
        seen = frame.evaluate(READ, [url, options])
        # A page of a rebound name may read its refusal.
        assert seen == "" or (origin == "rebound name" and "does not answer to the host 'evil.test" in seen)


def test_a_program_reads_what_is_presigned(aws: LocalProcess) -> None:
    presigned = str(signed("GET", f"{aws.endpoint}/bucket/key", S3SigV4QueryAuth, "s3").url)
    assert answer(aws, "GET", presigned.removeprefix(aws.endpoint)) == (200, b"secret")


@pytest.mark.parametrize("method", ["TRACE", "CONNECT"])
@pytest.mark.parametrize("target", ["/", "/_aws/execute-api/none/none/", "evil.test:80"])
def test_no_request_is_sent_back_or_passed_on(aws: LocalProcess, method: str, target: str) -> None:
    status, body = answer(aws, method, target, {"X-Secret": "secret"})
    assert status >= 400 and b"secret" not in body


def answer(aws: LocalProcess, method: str, target: str, headers: dict[str, str] | None = None) -> tuple[int, bytes]:
    """The status and body of the answer to a program."""
    connection = http.client.HTTPConnection("127.0.0.1", aws.port, timeout=30)
    try:
        connection.request(method, target, headers=headers or {})
        got = connection.getresponse()
        return got.status, got.read()
    finally:
        connection.close()
