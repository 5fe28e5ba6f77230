"""The tests' browser treats strangers' pages as browsers do: nothing else keeps these from this machine."""

from __future__ import annotations

from playwright.sync_api import Page

from tests.browser import Site

FETCH = """async ([url, options]) => {
  try { return (await fetch(url, options)).type } catch (error) { return "refused" }
}"""


def test_pages_of_a_foreign_site_reach_this_machine(page: Page, site: Site) -> None:
    page.goto(site.url("shop.test"))
    assert page.evaluate(FETCH, [site.url("shop.test"), {}]) == "basic"
    assert page.evaluate(FETCH, [site.url("127.0.0.1"), {"mode": "no-cors", "method": "POST"}]) == "opaque"
    assert [request.split()[0] for request in site.requests] == ["GET", "GET", "POST"]


def test_they_ask_first_before_they_send_more_than_a_form_could(page: Page, site: Site) -> None:
    page.goto(site.url("shop.test"))
    site.requests.clear()
    options = {"method": "POST", "headers": {"x-amz-target": "AWSGlue.GetTables"}}
    assert page.evaluate(FETCH, [site.url("127.0.0.1"), options]) == "refused"
    assert [request.split()[0] for request in site.requests] == ["OPTIONS"]
