"""Athena's grammar: from the text of a statement to a tree of nodes, each with its place in the text.

A parser of our own, because tolerant ones take `LIMIT 1 OFFSET 2`, `a::int` and `SELECT a, FROM t`; Athena does not.
GRAMMAR is Athena's grammar. Its parts not implemented here are refused by name; any other fault is `mismatched input`,
as on Athena.

Facts: https://trino.io/docs/current/sql/select.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

# Words usable as names only in double quotes.
RESERVED = frozenset(
    str.split(
        """ALTER AND AS BETWEEN BY CASE CAST CONSTRAINT CREATE CROSS CUBE CURRENT_CATALOG CURRENT_DATE CURRENT_PATH
    CURRENT_ROLE CURRENT_SCHEMA CURRENT_TIME CURRENT_TIMESTAMP CURRENT_USER DEALLOCATE DELETE DESCRIBE DISTINCT DROP
    ELSE END ESCAPE EXCEPT EXECUTE EXISTS EXTRACT FALSE FOR FROM FULL GROUP GROUPING HAVING IN INNER INSERT
    INTERSECT INTO IS JOIN JSON_ARRAY JSON_EXISTS JSON_OBJECT JSON_QUERY JSON_TABLE JSON_VALUE LEFT LIKE LISTAGG
    LOCALTIME LOCALTIMESTAMP NATURAL NORMALIZE NOT NULL ON OR ORDER OUTER PREPARE RECURSIVE RIGHT ROLLUP SELECT SKIP
    TABLE THEN TRIM TRUE UESCAPE UNION UNNEST USING VALUES WHEN WHERE WITH"""
    )
)
# Statements of Athena not implemented here.
OTHER_STATEMENTS = frozenset(
    str.split(
        """ALTER ANALYZE CALL COMMENT COMMIT CREATE DEALLOCATE DELETE DENY DESCRIBE DROP EXECUTE EXPLAIN GRANT INSERT
        MERGE MSCK OPTIMIZE PREPARE REFRESH RESET REVOKE ROLLBACK SET SHOW START TRUNCATE UNLOAD UPDATE USE VACUUM"""
    )
)
# First words of Athena's expressions not implemented here.
OTHER_WORDS = frozenset(
    str.split(
        """CURRENT_CATALOG CURRENT_PATH CURRENT_ROLE CURRENT_SCHEMA CURRENT_USER JSON_ARRAY JSON_EXISTS JSON_OBJECT
        JSON_QUERY JSON_VALUE NORMALIZE"""
    )
)
TOKEN = re.compile(
    r"""(?P<space>\s+|--[^\r\n]*|/\*.*?\*/)
    |(?P<whole>0[xX][0-9a-fA-F_]+|0[oO][0-7_]+|0[bB][01_]+|\d+(?:_\d+)+)
    |(?P<number>(?:\d+\.?\d*|\.\d+)[eE][+-]?\d+|\d+\.\d*|\.\d+|(?P<integer>\d+))(?P<digits>\w+)?
    |(?P<unicode>[uU]&'(?:[^']|'')*')|(?P<binary>[xX]'[^']*')|(?P<string>'(?:[^']|'')*')
    |(?P<quoted>"(?:[^"]|"")*")|(?P<back>`[^`]*`)|(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<sign><>|!=|<=|>=|->|=>|\|\||[-+*/%=<>(),.\[\]?;:])""",
    re.VERBOSE | re.DOTALL,
)
LEVELS = (("||",), ("+", "-"), ("*", "/", "%"))  # of operators, the loosest first
FIELDS = {
    name: name
    for name in str.split(
        """YEAR QUARTER MONTH WEEK DAY DAY_OF_MONTH DAY_OF_WEEK DAY_OF_YEAR YEAR_OF_WEEK HOUR MINUTE SECOND
        TIMEZONE_HOUR TIMEZONE_MINUTE"""
    )
} | {"DOW": "DAY_OF_WEEK", "DOY": "DAY_OF_YEAR", "YOW": "YEAR_OF_WEEK"}

# A rule is a name and its elements: WORDS, signs, other rules or kinds of token; [a] may be missing, (a | b) is the
# first to fit, a* any number, a%, one or more with commas between. <kind> makes a node, part=a a part of it.
# !"x" refuses syntax not implemented here. A rule not defined in GRAMMAR is a method of Parser.
GRAMMAR = r"""
statement: create | show | other_statement | query
create: CREATE TABLE IF !"CREATE TABLE IF NOT EXISTS" | CREATE TABLE qualified '(' !"CREATE TABLE without AS"
  | <create> CREATE TABLE name=qualified [WITH '(' properties=property%, ')'] AS query=created [no_data]
created: query | '(' query ')'
no_data: WITH !"CREATE TABLE WITH [NO] DATA"
property: <property> name=name '=' value=(string | integer | ARRAY '[' string%, ']')
show: <show> SHOW what=(TABLES | DATABASES | SCHEMAS | VIEWS) [(FROM | IN) name=qualified] [[LIKE] pattern=string]
  | <show> SHOW what=COLUMNS (FROM | IN) name=qualified | <show> SHOW what=PARTITIONS [FROM | IN] name=qualified
  | <describe> (DESCRIBE | DESC) name=qualified

query: <query> [WITH [recursive=RECURSIVE] named=named_query%,] body=ordered
named_query: <named> name=name [columns=names] AS '(' query=query ')'
names: '(' name%, ')'
qualified: name%.
ordered: <ordered> term=term [order_by] [OFFSET offset=integer [ROWS | ROW]] [limited]
order_by: ORDER BY order=sort%,
limited: LIMIT (ALL | '?' | limit=integer)
  | FETCH (FIRST | NEXT) limit=integer (ROWS | ROW) (ONLY | WITH !"FETCH FIRST ... WITH TIES") | FETCH !"FETCH FIRST"
sort: <sort> value=expression [ASC | descending=DESC] [NULLS (first=FIRST | LAST)]
query_primary: '(' ordered ')' | <select> TABLE source=table | <values> VALUES rows=expression%,
  | <select> SELECT [distinct=DISTINCT | ALL] items=select_item%, [FROM source=relations] [WHERE where=expression]
    [GROUP BY groups=group%,] [HAVING having=expression] [WINDOW windows=named_window%,]
select_item: <star> '*' | <star> of=qualified '.' '*' [AS !"column aliases of t.*"]
  | <item> value=expression ['.' '*' !"a star of anything but a table"] [AS alias=name | alias=alias]
group: <rollup> ROLLUP '(' items=expression%, ')' | CUBE '(' !"GROUP BY CUBE" | GROUPING SETS !"GROUPING SETS"
  | DISTINCT !"GROUP BY DISTINCT" | <row> '(' ')' | expression
named_window: <named window> name=name AS window=window
window: <window> '(' window_rest | <window> '(' base=name window_rest
window_rest: [PARTITION BY partition=expression%,] [order_by] [frame=frame] ')'
frame: <frame> unit=(ROWS | RANGE | GROUPS) (BETWEEN start=bound AND end=bound | start=bound)
bound: <bound> unbounded=UNBOUNDED side=(PRECEDING | FOLLOWING) | <bound> side=CURRENT ROW
  | <bound> value=expression side=(PRECEDING | FOLLOWING)

join: <join> how=CROSS JOIN right=aliased | <join> how=NATURAL [INNER | LEFT | RIGHT | FULL] [OUTER] JOIN right=aliased
  | <join> join_kind right=aliased criteria | <join> join_kind right=relation criteria
join_kind: how=(LEFT | RIGHT | FULL) [OUTER] JOIN | how=INNER JOIN | JOIN
criteria: ON on=expression | USING using=names
aliased: <aliased> relation=relation_primary [sample] [(AS alias=name | alias=alias) [columns=names]] [sample]
sample: TABLESAMPLE !"TABLESAMPLE" | MATCH_RECOGNIZE !"MATCH_RECOGNIZE"
relation_primary: <unnest> UNNEST '(' values=expression%, ')' [WITH ordinality=ORDINALITY]
  | <lateral> LATERAL '(' query=query ')' | TABLE '(' !"table functions" | JSON_TABLE !"JSON_TABLE"
  | <subquery> '(' query=query ')' | '(' relation ')'
  | <versioned> qualified FOR (TIMESTAMP | VERSION) AS OF expression | table
table: <table> name=qualified

predicate: <comparison> operator=('=' | '<>' | '!=' | '<' | '<=' | '>' | '>=') (quantified | right=operand)
  | <is null> IS [negated=NOT] NULL | <distinct from> IS [negated=NOT] DISTINCT FROM right=operand
  | <between> [negated=NOT] BETWEEN low=operand AND high=operand
  | <like> [negated=NOT] LIKE pattern=operand [ESCAPE escape=operand]
  | <in query> [negated=NOT] IN '(' query=query ')' | <in> [negated=NOT] IN '(' items=expression%, ')'
quantified: (ALL | ANY | SOME) '(' !"comparisons with ALL, ANY or SOME"
suffix: <subscript> '[' index=expression ']' | <field> '.' name=name
zone: <at zone> AT TIME ZONE (INTERVAL !"AT TIME ZONE INTERVAL" | zone=primary)
simple: <number> text=(number | integer) | <string> text=string | <binary> text=binary | unicode !"U&'...' literals"
  | <parameter> '?' | <null> NULL | <true> TRUE | <false> FALSE | <exists> EXISTS '(' query=query ')'
  | <scalar> '(' query=query ')' | <lambda> '(' [names=name%,] ')' '->' body=expression
  | <parentheses> '(' items=expression%, ')' | <lambda> name=name '->' body=expression
  | <case> CASE [operand=expression] branches=branch* [ELSE otherwise=expression] END
  | <cast> CAST '(' value=expression AS type=type ')' | <cast> tries=TRY_CAST '(' value=expression AS type=type ')'
  | <interval> INTERVAL [sign=('-' | '+')] text=string unit=unit [TO !"INTERVAL ... TO ..."]
  | <array> ARRAY '[' [items=expression%,] ']' | <row> ROW '(' items=expression%, ')'
  | <extract> EXTRACT '(' field=name FROM value=expression ')' | <grouping> GROUPING '(' items=expression%, ')'
  | <position> POSITION '(' part=operand IN text=operand ')'
  | <substring> SUBSTRING '(' text=expression FROM start=expression [FOR length=expression] ')'
  | <trim> TRIM '(' [side=(LEADING | TRAILING | BOTH)] [part=expression] FROM text=expression ')'
  | <trim> TRIM '(' text=expression [',' part=expression] ')'
  | <moment> name=CURRENT_DATE
  | <moment> name=(CURRENT_TIMESTAMP | LOCALTIMESTAMP | CURRENT_TIME | LOCALTIME) ['(' precision=integer ')']
  | <call> name=LISTAGG '(' [distinct=DISTINCT | ALL] arguments=expression%, [ON !"LISTAGG ON OVERFLOW"] ')'
    WITHIN GROUP '(' order_by ')' call_tail
  | <call> name=name '(' star='*' ')' call_tail
  | <call> name=name '(' [[distinct=DISTINCT | ALL] arguments=expression%,] [order_by] ')' call_tail
  | <typed> name=DOUBLE PRECISION text=string | <typed> name=name text=string | other_word | <name> name=name
branch: <branch> WHEN when=expression THEN then=expression
call_tail: [FILTER '(' WHERE filter=expression ')'] [nulls=(IGNORE | RESPECT) NULLS]
  [OVER over=(window | <window> base=name)]
unit: YEAR | MONTH | DAY | HOUR | MINUTE | SECOND
type: <suffixed type> type=base_type arrays=ARRAY*
base_type: <type> name=ROW '(' items=field%, ')' | <type> name=DOUBLE PRECISION
  | <type> name=INTERVAL from=unit TO to=unit
  | <type> name=(TIMESTAMP | TIME) ['(' items=type_item%, ')'] [zone=WITH TIME ZONE | WITHOUT TIME ZONE]
  | <type> name=(ARRAY | MAP) '<' items=type%, '>' | <type> name=name ['(' items=type_item%, ')']
type_item: integer | type
field: <field of row> name=name type=type | <field of row> type=type
"""


class Missing(Exception):
    """Athena has it, the local Athena has not."""

    def __init__(self, what: str) -> None:
        super().__init__(f"NOT_SUPPORTED: the local Athena does not implement {what}")


class Node:
    """A part of a statement: its kind, where it begins, the nodes and values in it by name."""

    def __init__(self, kind: str, at: int, **parts: Any) -> None:
        self.kind, self.at, self.parts = kind, at, parts

    def __getitem__(self, name: str) -> Any:
        return self.parts.get(name)

    def within(self, name: str) -> list[Node]:
        """The nodes of a part."""
        part = self.parts[name]
        return [one for one in (part if isinstance(part, list) else [part]) if isinstance(one, Node)]

    def walk(self, into_queries: bool = True) -> Iterator[Node]:
        """This node and all within it, with those of subqueries or without."""
        yield self
        for name in self.parts:
            if into_queries or name != "query":
                for inner in self.within(name):
                    yield from inner.walk(into_queries)


class Token:
    """A word, sign or literal. `kind` is from TOKEN, `value` the word in capitals or the text of a literal; `key` is
    its form in GRAMMAR."""

    def __init__(self, kind: str, value: str, text: str, at: int) -> None:
        self.kind, self.value, self.text, self.at = kind, value, text, at
        self.key = value if kind in ("word", "sign") else kind


def place(sql: str, at: int) -> str:
    """Where something is in the text, as Athena says it: "line 1:8"."""
    before = sql[:at]
    return f"line {before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"


def tokenize(sql: str) -> list[Token]:
    """All tokens, and one for the end. Raises ValueError."""
    tokens, at = [], 0
    while at < len(sql):
        found = TOKEN.match(sql, at)
        if not found:
            raise ValueError(f"{place(sql, at)}: mismatched input {sql[at]!r}")
        if found["digits"]:
            reason = "identifiers must not start with a digit; surround the identifier with double quotes"
            raise ValueError(f"{place(sql, at)}: {reason}")
        kind, text = found.lastgroup or "", found[0]
        if kind == "whole":
            tokens.append(Token("integer", str(int(text, 0 if text[1].isalpha() else 10)), text, at))
        elif kind in ("string", "quoted", "back"):
            tokens.append(Token(kind, text[1:-1].replace(text[0] * 2, text[0]), text, at))
        elif kind != "space":
            kind = "integer" if found["integer"] else kind
            tokens.append(Token(kind, text.upper() if kind == "word" else text, text, at))
        at = found.end()
    return [*tokens, Token("end", "", "<EOF>", len(sql))]


@dataclass
class Element:
    """A part of a rule; `part` is its name in a node. `kind` is token, rule, missing, choice, or optional; with a
    `separator` it is a list."""

    kind: str
    name: str = ""
    part: str = ""
    choices: list[Choice] = field(default_factory=list)
    separator: str | None = None


@dataclass
class Choice:
    """Elements one after the other; they make a node if `kind` names one."""

    kind: str
    elements: list[Element]

    def begins_with(self, key: str) -> bool:
        """Whether it may begin with this token."""
        first = self.elements[0]
        return first.kind != "token" or first.separator is not None or first.name == key


def read_grammar(text: str) -> dict[str, list[Choice]]:
    """The rules of a grammar by name."""
    signs = re.findall(r"""\'[^\']+\'|^\w+:|<[\w ]+>|!"[^"]+"|\w+=|\w+|%.|[*()\[\]|]""", text, re.M)[::-1]

    def choices() -> list[Choice]:
        found = [Choice(signs.pop()[1:-1] if signs[-1][0] == "<" else "", [])]
        while signs and signs[-1] not in (")", "]") and not signs[-1].endswith(":"):
            if signs[-1] == "|":
                signs.pop()
                found.append(Choice(signs.pop()[1:-1] if signs[-1][0] == "<" else "", []))
            else:
                found[-1].elements.append(element())
        return found

    def element() -> Element:
        part = signs.pop()[:-1] if signs[-1].endswith("=") and signs[-1][0] != "'" else ""
        sign = signs.pop()
        if sign in ("(", "["):
            made = Element("choice" if sign == "(" else "optional", "", part, choices())
            signs.pop()
        elif sign[0] == "!":
            made = Element("missing", sign[2:-1])
        else:
            is_token = sign.isupper() or sign[0] == "'" or sign in TOKEN.groupindex
            made = Element("token" if is_token else "rule", sign.strip("'"), part)
        if signs and signs[-1] == "*":
            made.separator = signs.pop() and ""
        elif signs and signs[-1][0] == "%":
            made.separator = signs.pop()[1:]
        return made

    rules: dict[str, list[Choice]] = {}
    while signs:
        name = signs.pop()[:-1]
        rules[name] = choices()
    return rules


RULES = read_grammar(GRAMMAR)


class Parser:
    """Reads one statement. A rule gives its value, or None if it does not fit; then nothing is read."""

    def __init__(self, sql: str) -> None:
        self.sql, self.tokens, self.next, self.furthest = sql, tokenize(sql), 0, 0
        self.is_hive = self.tokens[0].value in ("SHOW", "DESCRIBE", "DESC")  # whose names may have backquotes
        self.known: dict[tuple[str, int], tuple[Any, int, dict[str, Any]]] = {}  # rules read before

    @property
    def token(self) -> Token:
        return self.tokens[self.next]

    def fail(self) -> ValueError:
        """The error at the furthest token reached."""
        token = self.tokens[max(self.furthest, self.next)]
        reason = f"mismatched input '{token.text}'"
        if token.kind == "back":
            reason = "backquoted identifiers are not supported; use double quotes to quote identifiers"
        return ValueError(f"{place(self.sql, token.at)}: {reason}")

    # --- The grammar

    def rule(self, name: str, parts: dict[str, Any] | None = None) -> Any:
        """A rule's value. If the rule makes no node, its parts go to the node around it."""
        start = self.next
        if (name, start) not in self.known:
            got: dict[str, Any] = {}
            value = self.choice(RULES[name], got) if name in RULES else getattr(self, name)()
            self.known[name, start] = value, start if value is None else self.next, got
        value, self.next, got = self.known[name, start]
        if parts is not None:
            parts.update(got)
        return value

    def choice(self, choices: list[Choice], parts: dict[str, Any]) -> Any:
        """The first of several to fit: its node, or its last part apart from words and signs."""
        start = self.next
        self.furthest = max(self.furthest, start)
        for one in choices:
            if not one.begins_with(self.token.key):
                continue
            got: dict[str, Any] = {}
            value: Any = True
            for element in one.elements:
                found = self.element(element, got)
                if found is None:
                    break
                if value is True or element.kind in ("rule", "choice") or element.separator is not None:
                    value = found
            else:
                if one.kind:
                    node = Node(one.kind, self.tokens[start].at, **got)
                    change = getattr(self, f"make_{one.kind.replace(' ', '_')}", None)
                    return change(node) if change else node
                parts.update(got)
                return value
            self.next = start
        return None

    def element(self, element: Element, parts: dict[str, Any]) -> Any:
        value: Any = None
        if element.separator is not None:
            value = self.listed(element)
        elif element.kind == "token":
            value = self.take(element.name)
        elif element.kind == "rule":
            value = self.rule(element.name, parts)
        elif element.kind == "missing":
            raise Missing(element.name)
        else:
            value = self.choice(element.choices, parts)
            if value is None and element.kind == "optional":
                return True
        if element.part and value is not None:
            parts[element.part] = value
        return value

    def listed(self, element: Element) -> list[Any] | None:
        found: list[Any] = []
        while True:
            start = self.next
            if found and element.separator and self.take(element.separator) is None:
                break
            item = self.take(element.name) if element.kind == "token" else self.rule(element.name)
            if item is None:
                self.next = start
                break
            found.append(item)
        return found if found or not element.separator else None

    def take(self, *keys: str) -> str | None:
        """The value of the next token, if it is one of these."""
        token = self.token
        if token.key in keys:
            self.next += 1
            return token.value
        self.furthest = max(self.furthest, self.next)
        return None

    # --- Names

    def sees(self, *keys: str, ahead: int = 0) -> bool:
        """Whether these tokens come now."""
        return [token.key for token in self.tokens[self.next + ahead :][: len(keys)]] == list(keys)

    def is_name(self) -> bool:
        return self.token.kind in ("quoted", "back" if self.is_hive else "") or (
            self.token.kind == "word" and self.token.value not in RESERVED
        )

    def name(self) -> str | None:
        """An identifier as it is written."""
        token = self.token
        if not self.is_name():
            return self.take()
        self.next += 1
        return token.text if token.kind == "word" else token.value

    def alias(self) -> str | None:
        """A name, unless the word begins a clause, such as LIMIT."""
        following = self.tokens[min(self.next + 1, len(self.tokens) - 1)]
        clauses = {
            "LIMIT": following.key in ("integer", "number", "ALL", "?"),
            "OFFSET": following.key in ("integer", "number", "?"),
            "FETCH": following.key in ("FIRST", "NEXT"),
            "WINDOW": following.kind in ("word", "quoted") and self.sees("AS", "(", ahead=2),
        }
        return self.take() if clauses.get(self.token.key) else self.name()

    # --- Operators, from loose to tight

    def term(self, kinds: tuple[str, ...] = ("UNION", "EXCEPT")) -> Node | None:
        """Set operations: INTERSECT binds more tightly than the other two."""
        is_loose = "UNION" in kinds
        left = self.term(("INTERSECT",)) if is_loose else self.rule("query_primary")
        while left and (operator := self.take(*kinds)):
            at = self.tokens[self.next - 1].at
            everything = self.take("ALL", "DISTINCT") == "ALL"
            right = self.term(("INTERSECT",)) if is_loose else self.rule("query_primary")
            left = right and Node("set", at, operator=operator, all=everything, left=left, right=right)
        return left

    def relations(self) -> Node | None:
        left: Node | None = self.rule("relation")
        while left and self.take(","):
            right = self.rule("relation")
            left = right and Node("join", left.at, how="CROSS", left=left, right=right)
        return left

    def relation(self) -> Node | None:
        left: Node | None = self.rule("aliased")
        while left and (join := self.rule("join")):
            left = Node("join", join.at, left=left, **join.parts)
        return left

    def expression(self) -> Node | None:
        return self.several("OR", lambda: self.several("AND", self.negation))

    def several(self, word: str, operand: Callable[[], Node | None]) -> Node | None:
        at, operands = self.token.at, [operand()]
        while operands[-1] and self.take(word):
            operands.append(operand())
        if operands[-1] is None or len(operands) == 1:
            return operands[-1]
        return Node("logical", at, operator=word, operands=operands)

    def negation(self) -> Node | None:
        at = self.token.at
        if self.take("NOT"):
            value = self.negation()
            return value and Node("not", at, value=value)
        value = self.operand()
        made = value and self.rule("predicate")
        return Node(made.kind, made.at, value=value, **made.parts) if made else value

    def operand(self, level: int = 0) -> Node | None:
        if level == len(LEVELS):
            return self.unary()
        left = self.operand(level + 1)
        while left and (operator := self.take(*LEVELS[level])):
            at, right = self.tokens[self.next - 1].at, self.operand(level + 1)
            kind = "concat" if operator == "||" else "arithmetic"
            left = right and Node(kind, at, operator=operator, left=left, right=right)
        return left

    def unary(self) -> Node | None:
        at, sign = self.token.at, self.take("-", "+")
        if not sign:
            return self.suffixed(self.rule("primary"), "zone")
        if sign == "-" and self.token.kind in ("number", "integer") and not self.sees(".", ahead=1):
            return self.suffixed(Node("number", at, text=f"-{self.take(self.token.key)}"), "zone")
        value = self.unary()
        return value and Node("sign", at, sign=sign, value=value)

    def primary(self) -> Node | None:
        return self.suffixed(self.rule("simple"), "suffix")

    def suffixed(self, value: Node | None, rule: str) -> Node | None:
        while value and (made := self.rule(rule)):
            value = Node(made.kind, value.at, value=value, **made.parts)
        return value

    # --- Parts not implemented here

    def other_statement(self) -> None:
        if self.token.key in OTHER_STATEMENTS and not self.sees("CREATE", "TABLE"):
            raise Missing(f"the statement {' '.join(token.text for token in self.tokens[:2])}")

    def other_word(self) -> None:
        if self.token.key in OTHER_WORDS:
            raise Missing(self.token.text)

    # --- Nodes made of others

    def make_aliased(self, node: Node) -> Node:
        relation: Node = node["relation"]
        return node if node["alias"] else relation

    def make_parentheses(self, node: Node) -> Node:
        items: list[Node] = node["items"]
        return Node("row", node.at, items=items) if len(items) > 1 else items[0]

    def make_lambda(self, node: Node) -> Node:
        names = [node["name"]] if "name" in node.parts else node["names"] or []
        return Node("lambda", node.at, names=names, body=node["body"])

    def make_case(self, node: Node) -> Node:
        if not node["branches"]:
            raise self.fail()
        return node

    def make_call(self, node: Node) -> Node:
        return Node("call", node.at, **{"arguments": [], "order": [], **node.parts, "name": node["name"].lower()})

    def make_extract(self, node: Node) -> Node:
        if node["field"].upper() not in FIELDS:
            raise ValueError(f"{place(self.sql, node.at)}: Invalid EXTRACT field: {node['field']}")
        return Node("extract", node.at, field=FIELDS[node["field"].upper()], value=node["value"])

    def make_position(self, node: Node) -> Node:
        return self.function(node, "strpos", "text", "part")

    def make_substring(self, node: Node) -> Node:
        return self.function(node, "substring", "text", "start", "length")

    def make_trim(self, node: Node) -> Node:
        return self.function(
            node, {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(node["side"] or "", "trim"), "text", "part"
        )

    def function(self, node: Node, name: str, *parts: str) -> Node:
        """A special form, such as TRIM(... FROM ...), as a call."""
        return Node("call", node.at, name=name, arguments=[node[part] for part in parts if node[part]], order=[])

    def make_typed(self, node: Node) -> Node:
        if node["name"].upper() == "INTERVAL":
            raise self.fail()
        return Node(
            "typed", node.at, type=Node("type", node.at, name=node["name"].lower(), items=[]), text=node["text"]
        )

    def make_type(self, node: Node) -> Node:
        name = node["name"].lower() + " with time zone" * ("zone" in node.parts)
        if "from" in node.parts:
            name = f"interval {node['from']} to {node['to']}".lower()
        items = [int(one) if isinstance(one, str) else one for one in node["items"] or []]
        return Node("type", node.at, name=name, items=items)

    def make_suffixed_type(self, node: Node) -> Node:
        made: Node = node["type"]
        for _ in node["arrays"]:
            made = Node("type", node.at, name="array", items=[made])
        return made


def parse(sql: str, rule: str = "statement") -> Node:
    """Read one statement, or a part of one. Raises ValueError with StartQueryExecution's answer, or Missing."""
    parser = Parser(sql)
    try:
        made: Node | None = parser.rule(rule)
    except RecursionError:
        raise Missing("expressions that are nested this deeply") from None
    ends = made and parser.take(";")
    if made is None or parser.token.kind != "end":
        if ends:
            raise ValueError(f"Only one sql statement is allowed. Got: {sql[:200]}")
        raise parser.fail()
    return made


def bind(sql: str, parameters: list[str]) -> str:
    """Put the execution parameters, each an SQL literal (text in single quotes), in place of the question marks."""
    places = [token for token in tokenize(sql) if token.kind == "sign" and token.value == "?"]
    if len(places) != len(parameters):
        raise ValueError(
            "INVALID_PARAMETER_USAGE: line 1:1: Incorrect number of parameters: "
            f"expected {len(places)} but found {len(parameters)}"
        )
    for token, value in reversed(list(zip(places, parameters, strict=True))):
        try:
            made = parse(f"SELECT {value}")
            items = made["body"]["term"]["items"]
            is_constant = len(items) == 1 and not any(node.kind in ("name", "scalar", "star") for node in made.walk())
        except (ValueError, Missing):
            is_constant = False
        if not is_constant:
            raise ValueError(
                "EXPRESSION_NOT_CONSTANT: line 1:1: Constant expression cannot contain column references: "
                f"{value} (as text it needs single quotes: '{value}')"
            )
        sql = sql[: token.at] + value + sql[token.at + 1 :]
    return sql
