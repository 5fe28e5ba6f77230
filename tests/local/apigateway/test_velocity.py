"""Mapping templates against real Velocity 1.7: the same text, or a refusal by name.

The folder velocity/ holds recordings of Velocity 1.7 with an empty string for each invalid reference. API Gateway seems
to run it like this. A generated template has no `out` where Velocity fails; it has `refused` where Velocity renders it
and the local one does not implement it.
"""

from __future__ import annotations

import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from local.apigateway import java
from local.apigateway.velocity import Input, MappingTemplate, Override, Util
from scripts.commands.deploy import template as templates
from tests.conftest import ROOT


def recorded(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(__file__).with_name("velocity") / name).read_text("utf-8").splitlines()]


HEAD, *ANSWERS = recorded("answers.ndjson")
GENERATED = recorded("generated.ndjson")
GIVEN = HEAD["given"]
# Recorded answers of missing features.
REFUSED = {
    *("index in JSONPath", "index", "wildcard", "recursive", "bracket name", "size", "bytes", "base64", "parseJson"),
    *("all parameters (AWS's own template)", "escaped for JSON", "arithmetic", "string methods", "matches", "stop"),
    *("equals and length", "list literal and map literal", "quoted quote", "escapes", "raw block", "break", "macro"),
    *("define", "evaluate", "a range", "text right after #end", "in, lists"),
}
MAPPING_TEMPLATES = {
    f"{group}.{name}": text
    for group, texts in templates.load((ROOT / "template.yaml").read_text())["Mappings"]["Vtl"].items()
    for name, text in texts.items()
}


def render(template: str, body: str = GIVEN["body"], override: Override | None = None, **given: Any) -> str:
    """The text of a template for the recorded inputs, or for others."""
    given = {**GIVEN, **given}
    return MappingTemplate("here", template).render(
        input=Input(body, dict(given["query"]), dict(given["headers"])),
        util=Util(),
        context={**given["context"], "responseOverride": Override() if override is None else override},
        stageVariables=given["stageVariables"],
    )


@pytest.mark.parametrize("answer", ANSWERS, ids=[each["name"] for each in ANSWERS])
def test_a_template_renders_as_velocity_does(answer: dict[str, Any]) -> None:
    if answer["name"] in REFUSED:
        with pytest.raises(ValueError, match=r"^here: .*not implemented"):
            render(answer["template"])
    else:
        assert render(answer["template"]) == answer["out"]


@pytest.mark.parametrize("answer", GENERATED, ids=map(str, range(1, len(GENERATED) + 1)))
def test_a_generated_template_renders_as_velocity_does(answer: dict[str, Any]) -> None:
    body = answer.get("body", GIVEN["body"])
    if "out" not in answer or "refused" in answer:
        with pytest.raises(ValueError, match=r"^here: "):
            render(answer["template"], body)
    else:
        assert render(answer["template"], body) == answer["out"]


@pytest.mark.parametrize(
    "template",
    [
        "$context.domainName",
        "$context.identity.apiKey",
        "#set($identity = $context.identity)",
        "$context.get('protocol')",
        "$context",
        "$context.responseOverride.status",
        "#set($context.requestOverride.header.a = 'b')",
        "#set($context.stage = 'b')",
        "#set($input = 'b')",
        "$input",
        "$input.document",
        "$util.escapeJavaScript('a')",
        "$input.path('$.a[0]')",
        "$input.path('$.name').trim()",
        "${x|'b'}",
        "#set($x = 1",
        "#foreach($context in [1..2])a#end",
        "#if(1 and 1)a#end",
    ],
)
def test_what_is_not_implemented_is_refused_before_any_request(template: str) -> None:
    with pytest.raises(ValueError, match=r"^here: line 2: "):
        MappingTemplate("here", f"\n{template}")


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("$input.path('$.f').length()", r"the method length\(\) of a float"),
        ("$util.urlEncode(5)", r"the method urlEncode\(int\) of a Util"),
        ("$input.params().header.get('a', 'b')", r"the method get\(str, str\) of a dict"),
        ("$input.path('$.name').bytes", "the property bytes of a str"),
        ("$input.params().header.keySet()", "the text of a dict_keys"),
        ("#if($input.path('$.list') == 1)a#end", "== of a list and a int"),
        ("#if($input.path('$.f') < 1)a#end", "the order of a float and a int"),
        ("#foreach($i in [1..1001])a#end", "at most 1,000 items"),
        ("$input.json('$.none')", r"\$input.json of null"),
        ("$input.path($input.params('a'))", "JSONPath 'x y' is not implemented"),
        ("$util.urlDecode('%zz')", "two hexadecimal digits must follow"),
        ("$input.body.substring(0, 5000)", r"substring\(0, 5000\) of 205 characters"),
    ],
)
def test_what_is_not_implemented_for_a_value_is_an_error_by_name(template: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^here: .*{message}"):
        render(template)


@pytest.mark.parametrize("number", ["1e23", "1e400", "-1e400", "5e-324", "NaN"])
def test_a_number_in_whose_text_versions_of_java_differ_is_refused_where_it_is_shown(number: str) -> None:
    body = f'{{"a": [{number}], "b": 1.5e-300}}'
    assert render("$input.path('$.b')", body) == "1.5E-300"
    for template in ("$input.json('$')", "$input.path('$')", "#foreach($i in $input.path('$.a'))$i#end"):
        with pytest.raises(ValueError, match=r"the text of the number .* is not implemented"):
            render(template, body)


def test_foreach_takes_1000_items() -> None:
    assert render("#foreach($i in $input.path('$'))a#end", json.dumps([1] * 1_000)) == "a" * 1_000


def test_an_empty_body_is_an_empty_object_as_text_and_nothing_is_said_of_it_as_json() -> None:
    assert render("$input.body", "") == "{}"
    for template in ("$input.json('$')", "$input.path('$')"):
        with pytest.raises(ValueError, match=r"of an empty payload.* not implemented"):
            render(template, "")


def test_a_header_is_found_in_any_case_and_listed_as_it_came() -> None:
    template = "$input.params('ORIGIN') $input.params('origin') [$input.params().header.get('origin')]"
    assert render(template, headers=[["Origin", "a"]]) == "a a []"
    assert render(template, headers=[["Origin", "a"], ["origin", "b"]]) == "b b [b]"
    assert render("$input.params('Origin')", headers=[["Origin", "a"], ["origin", "b"]]) == "a"


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (b"\xed\xa0\x80", "\ufffd"),
        (b"\xed\xa0\xbd\xed\xb8\x80", "\ufffd\ufffd"),
        (b"\xed\xa0a\xed\xa0", "\ufffda\ufffd"),
        (b"\xc3\xa9\xff\xe2\x82", "é\ufffd\ufffd"),
        (b"\xf0\x9f\x98\x80\xf4\x90\x80\x80", "\U0001f600\ufffd\ufffd\ufffd\ufffd"),
    ],
)
def test_bytes_are_decoded_as_java_does(data: bytes, text: str) -> None:
    assert java.decode(data) == text
    assert render("$util.urlDecode($input.body)", "".join(f"%{byte:02X}" for byte in data)) == text


# ---- the answer's status and headers

CORS_TEMPLATE = """\
#set($origin = $input.params().header.get("Origin"))
#if($origin == "")
#set($origin = $input.params().header.get("origin"))
#end
#set($origins = ",$stageVariables.corsOrigins,")
#if($origin != "" && $origins.contains(",$origin,"))
#set($context.responseOverride.header.Access-Control-Allow-Origin = $origin)
#end
{}"""


@pytest.mark.parametrize("header", ["Origin", "origin"])
@pytest.mark.parametrize(("origin", "allowed"), [("https://b.example", True), ("https://b", False), ("", False)])
def test_a_template_allows_origins_of_a_list(header: str, origin: str, allowed: bool) -> None:
    override = Override()
    given: dict[str, Any] = {"headers": [[header, origin]] if origin else []}
    given["stageVariables"] = {"corsOrigins": "https://a.example,https://b.example"}
    assert render(CORS_TEMPLATE, override=override, **given) == "{}"
    assert override.headers == ({"access-control-allow-origin": origin} if allowed else {})


@pytest.mark.parametrize(
    "template",
    [
        "#set($context.responseOverride.status = 413)#set($context.responseOverride.status = 413)",
        "#set($context.responseOverride.header.X-A = 'b')#set($context.responseOverride.header.x-a = 'b')",
    ],
    ids=["status", "header"],
)
def test_an_override_is_set_once(template: str) -> None:
    with pytest.raises(ValueError, match="set twice"):
        render(template)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("header.X", "5"), ("header.X", "true"), ("header.X", "$util.urlDecode('a%0Db')")),
        *(("header.X", "$util.urlDecode('%C3%BC')"), ("status", "'x'"), ("status", "42"), ("status", "true")),
        *(("status", "600"), ("status", "$input.params().header.keySet()")),
    ],
)
def test_an_override_is_a_status_or_printable_ascii(name: str, value: str) -> None:
    with pytest.raises(ValueError, match=f"the override of {name.lower()} is .*: only a status, or printable ASCII"):
        render(f"#set($context.responseOverride.{name} = {value})")


# ---- the templates of template.yaml


def conditions(template: str) -> list[str]:
    """The text in the parentheses of every #if and #elseif."""
    found = []
    for directive in re.finditer(r"#\{?(?:else)?if\}?\s*\(", template):
        depth, end = 1, directive.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(template[end], 0)
            end += 1
        found.append(template[directive.end() : end - 1])
    return found


def bare_operands(template: str) -> list[str]:
    """Possibly non-boolean operands of conditions: other versions of Velocity take them otherwise."""
    operands = [each.strip("!() ") for condition in conditions(template) for each in re.split(r"&&|\|\|", condition)]
    return [each for each in operands if not re.search(r"[=!]=|[<>]|\.contains\(|^true$|^\$foreach\.", each)]


@pytest.mark.parametrize("name", MAPPING_TEMPLATES)
def test_no_condition_is_a_bare_reference(name: str) -> None:
    MappingTemplate(name, MAPPING_TEMPLATES[name])
    assert bare_operands(MAPPING_TEMPLATES[name]) == []


def test_a_bare_reference_is_found() -> None:
    template = "#if($a.contains('b') && !$b)#elseif ($c || $d == 1)#{if}($input.path('$.e'))#if($foreach.hasNext)"
    assert bare_operands(template) == ["$b", "$c", "$input.path('$.e'"]


@pytest.mark.parametrize("length", [1023, 1024, 1025])
@pytest.mark.parametrize("end", ["\U0001f600", "\ud83d\ude00", "\ud83d", "\ude00", "$x#set($y = 1)\n"])
def test_a_user_agent_is_cut_as_java_cuts_it(length: int, end: str) -> None:
    agent = ("a" * length + end + "b" * 20).encode("utf-16-le", "surrogatepass")
    context = {**GIVEN["context"], "identity": {"userAgent": "a" * length + end + "b" * 20}}
    answer = json.loads(render(MAPPING_TEMPLATES["Request.Record"], "{}", context=context))
    line = base64.b64decode(answer["Record"]["Data"]).decode().splitlines()[0]
    sent = base64.b64decode(line.rpartition("user_agent=")[2].partition(" ")[0])
    assert sent == agent[:2048].decode("utf-16-le", "surrogatepass").encode("utf-8", "replace")
