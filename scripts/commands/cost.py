"""The bill of a month: estimated from what comes in, or out of a stack's metrics; and what would make it smaller."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.commands import cost_model as model
from scripts.commands import cost_optional, cost_prices, cost_stack
from scripts.commands.console import Parser, UsageError, main, say
from scripts.commands.cost_model import Lever, Line, Workload
from scripts.commands.cost_prices import Price, Prices
from scripts.commands.query import size
from scripts.commands.stack import add_stack_arguments, session

PACKINGS = (1, 20, 500)
WORTH_TELLING = 0.01  # of the bill

LEFT_OUT = (
    "a KMS key of your own, the Glue catalogue (its first million requests a month are free), Athena's results, raw/, "
    "rejected/ and errors/ (--from-stack measures their storage), what DynamoDB stores, taxes, discounts"
)


@dataclass(frozen=True)
class Bill:
    """What is told, as a table or as JSON. `basis` says of each quantity how it is known."""

    prices: Prices
    with_free_tier: bool
    workload: Workload
    lines: list[Line]
    levers: list[Lever]
    basis: Mapping[str, str] = field(default_factory=dict)
    unpriced: list[str] = field(default_factory=list)

    @property
    def total(self) -> float:
        return model.total(self.lines)

    @property
    def dominant(self) -> Line:
        return max(self.lines, key=lambda line: line.dollars)

    @property
    def useful(self) -> list[Lever]:
        """The levers that save something worth telling."""
        return [lever for lever in self.levers if lever.dollars >= WORTH_TELLING * self.total > 0]


def cost(arguments: list[str]) -> int:
    """scripts/cost.sh"""
    options = _parse(arguments)
    prices = cost_prices.read(options.prices)
    if options.compare:
        write = compare_as_json if options.json else compare_as_table
        write(options.bytes, prices)
        return 0
    workload = Workload(
        events_per_month=options.events_per_month or 0,
        bytes_per_event=options.bytes or 0,
        events_per_request=options.events_per_request or 0,
        output_format=options.output_format,
        buffering_interval=options.buffering_interval,
        memory=options.memory,
        tracing=options.tracing,
        retention_in_days=options.retention,
        queries_per_month=options.queries_per_month,
        days_per_query=options.days_per_query,
        alarms=options.alarms,
        dashboards=options.dashboards,
    )
    optional = cost_optional.Use(
        refine_runs=options.refine_runs,
        refine_statements=options.refine_statements,
        pull_runs=options.pull_runs,
        pull_pages=options.pull_pages,
        deliver_runs=options.deliver_runs,
        deliver_rows=options.deliver_rows,
    )
    if options.from_stack:
        aws = session(options.local)
        measured = cost_stack.measure(aws, options.stack_name, options.days, workload, optional)
        told = replace(
            _bill(measured.workload, measured.quantities, prices, options.free_tier),
            basis=measured.basis,
            unpriced=measured.unpriced,
        )
        say(f"Stack '{options.stack_name}' in {aws.place}, measured for {_duration(measured.seconds)}")
        if aws.region != prices.region or aws.is_local:
            say(f"The prices are those of {prices.region} on AWS")
    else:
        _check(workload)
        quantities = model.quantities(workload) | cost_optional.quantities(optional)
        told = _bill(workload, quantities, prices, options.free_tier)
    (write_json if options.json else write_table)(told)
    return 0


def _bill(workload: Workload, quantities: dict[str, float], prices: Prices, with_free_tier: bool) -> Bill:
    return Bill(
        prices,
        with_free_tier,
        workload,
        model.bill(quantities, prices, with_free_tier=with_free_tier),
        model.levers(workload, prices, with_free_tier=with_free_tier),
    )


def _check(workload: Workload) -> None:
    try:
        workload.check()
    except model.Unsuitable as error:
        raise UsageError(f"--events-per-request: {error}") from error


# What is shown


def write_table(told: Bill) -> None:
    """The bill, what dominates it, and the levers, on stdout; what it rests on, on stderr."""
    workload = told.workload
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{workload.events_per_month:,.0f} events a month of {workload.bytes_per_event:,.0f} bytes, "
        f"{workload.events_per_request:,.3g} to a request, {workload.output_format}",
        title_justify="left",
        show_footer=True,
    )
    table.add_column("Service", footer="Together")
    table.add_column("What")
    table.add_column("Quantity", justify="right")
    table.add_column("Price in USD")
    table.add_column("USD", justify="right", footer=f"{told.total:,.2f}")
    table.add_column("Share", justify="right")
    table.add_column("Source")
    if told.basis:
        table.add_column("Known by")
    for line in told.lines:
        price = told.prices[line.key]
        cells = [
            price.service,
            price.item,
            quantity(line.quantity, price),
            unit_price(price),
            f"{line.dollars:,.2f}",
            f"{line.dollars / told.total:.0%}" if told.total else "",
            price.strength,
        ]
        table.add_row(*cells, *([told.basis[line.key]] if told.basis else []))
    console = _console()
    console.print(table)
    price = told.prices[told.dominant.key]
    console.print(
        f"What dominates: {price.service}, {price.item}: {told.dominant.dollars:,.2f} of {told.total:,.2f} USD. "
        f"A million events cost {told.total / workload.events_per_month * 1e6:,.2f} USD.",
        highlight=False,
    )
    if told.useful:
        levers = Table(box=box.SIMPLE_HEAD, title="The next lever, each alone", title_justify="left")
        levers.add_column("What")
        levers.add_column("Saves USD a month", justify="right")
        for lever in told.useful:
            levers.add_row(lever.what, f"{lever.dollars:,.2f}")
        console.print(levers)
    for note in notes(told):
        say(note, style="dim")


def notes(told: Bill) -> list[str]:
    """What the bill rests on, and what it leaves out."""
    free = "is subtracted where the price file knows it" if told.with_free_tier else "is not subtracted"
    more = f"; of this stack: {', '.join(told.unpriced)}" if told.unpriced else ""
    if not told.basis:
        more = "; functions and queries of optional stacks"
    return [
        f"List prices of {told.prices.region}, gathered {told.prices.gathered} from public sources (docs/cost.md): "
        f"check them before you rely on them. What is free in every account {free}.",
        f"Not in it: {LEFT_OUT}{more}",
    ]


def write_json(told: Bill) -> None:
    """The same facts, and the source of each price."""
    print(
        json.dumps(
            {
                "region": told.prices.region,
                "prices_gathered": told.prices.gathered,
                "free_tier_subtracted": told.with_free_tier,
                "workload": asdict(told.workload),
                "lines": [_line_facts(line, told.prices, told.basis.get(line.key, "model")) for line in told.lines],
                "total_usd": round(told.total, 4),
                "usd_per_million_events": round(told.total / told.workload.events_per_month * 1e6, 4),
                "dominates": told.dominant.key,
                "levers": [{"what": lever.what, "saves_usd": round(lever.dollars, 4)} for lever in told.levers],
                "notes": notes(told),
            },
            indent=2,
        )
    )


def _line_facts(line: Line, prices: Prices, basis: str) -> dict[str, Any]:
    price = prices[line.key]
    return {
        "key": line.key,
        "service": price.service,
        "item": price.item,
        "quantity": line.quantity,
        "unit": price.unit,
        "known_by": basis,
        "usd": round(line.dollars, 6),
        "price": {"per": price.per, "tiers": price.tiers, "strength": price.strength, "source": price.source},
    }


# Other designs


def _designs(size_of_event: int, prices: Prices) -> dict[int, dict[str, list[Line]]]:
    found = {}
    for packing in PACKINGS:
        workload = Workload(events_per_month=1e6, bytes_per_event=size_of_event, events_per_request=packing)
        _check(workload)
        found[packing] = {design: model.bill(used, prices) for design, used in model.designs(workload).items()}
    return found


def compare_as_table(size_of_event: int, prices: Prices) -> None:
    """A million events by design and packing, with every quantity and its price."""
    found = _designs(size_of_event, prices)
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"USD for a million events of {size_of_event:,} bytes, by events in a request",
        title_justify="left",
    )
    table.add_column("Design")
    table.add_column("Price in USD")
    for packing in PACKINGS:
        table.add_column(f"{packing}", justify="right")
    for design in model.DESIGNS:
        bills = [found[packing][design] for packing in PACKINGS]
        table.add_row(design, "", *(f"{model.total(lines):.3f}" for lines in bills), style="bold", end_section=False)
        for lines in zip(*bills, strict=True):
            price = prices[lines[0].key]
            sums = [f"{quantity(line.quantity, price)} = {line.dollars:.3f}" for line in lines]
            table.add_row(f"  {price.service}: {price.item}", unit_price(price), *sums)
    _console().print(table)
    hours = prices["kinesis-stream-hours"].cost(model.HOURS_PER_MONTH)
    say(
        f"Only what grows with the events. A Kinesis stream costs {hours:.2f} more each month; storage, queries, logs "
        f"and metrics are left out of all. List prices of {prices.region}, gathered {prices.gathered}.",
        style="dim",
    )


def compare_as_json(size_of_event: int, prices: Prices) -> None:
    """The same facts."""
    document = {
        str(packing): {
            design: {
                "usd_per_million_events": round(model.total(lines), 6),
                "lines": [_line_facts(line, prices, "model") for line in lines],
            }
            for design, lines in found.items()
        }
        for packing, found in _designs(size_of_event, prices).items()
    }
    print(json.dumps({"bytes": size_of_event, "by_events_per_request": document}, indent=2))


# Numbers


def quantity(amount: float, price: Price) -> str:
    """A quantity as a person reads it: `51.2 GB`, `10,000,000`."""
    if price.unit.startswith("byte"):
        return size(round(amount))
    return f"{amount:,.0f}" if amount >= 10 else f"{amount:,.3g}"


def unit_price(price: Price) -> str:
    """The price of the first tier: `from 3.50 a million`, `0.029 a GB`, `5.00 a TB`."""
    units = {1e9: "GB", 1e12: "TB"} if price.unit.startswith("byte") else {1e6: "million", 1e3: "1,000", 1: price.unit}
    dollars = price.tiers[0][1]
    shown = f"{dollars:.2f}" if round(dollars, 2) == dollars else f"{dollars:.7f}".rstrip("0")
    # The price of larger quantities is less.
    first = "from " if len(price.tiers) > 1 else ""
    return f"{first}{shown} {'a' if price.per > 1e3 else 'per'} {units[price.per].removesuffix('-month')}"


def _duration(seconds: float) -> str:
    if seconds < 3600:
        return f"{seconds / 60:.0f} minutes: too short to say much about a month"
    return f"{seconds / 3600:.0f} hours" if seconds < 172_800 else f"{seconds / 86_400:.0f} days"


def _console() -> Console:
    console = Console()
    if not console.is_terminal:
        console.width = 160
    return console


# Arguments


def _whole(least: int, most: int | None = None) -> Any:
    def read(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            number = least - 1
        if number < least or (most is not None and number > most):
            limits = f"from {least:,} to {most:,}" if most else f"of {least:,} or more"
            raise argparse.ArgumentTypeError(f"'{text}' is no whole number {limits}")
        return number

    return read


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("cost")
    add_stack_arguments(parser)
    came_in = ("--events-per-month", "--bytes", "--events-per-request")
    parser.add_argument("--events-per-month", type=_whole(1))
    parser.add_argument("--bytes", type=_whole(2, model.LARGEST_BODY))
    parser.add_argument("--events-per-request", type=_whole(1))
    parser.add_argument("--output-format", choices=["PARQUET", "JSON"], default="PARQUET")
    parser.add_argument("--buffering-interval", type=_whole(0, 900), default=60)
    parser.add_argument("--memory", type=_whole(256, 10_240), default=512)
    parser.add_argument("--tracing", action="store_true")
    parser.add_argument("--retention", type=_whole(1), default=365)
    parser.add_argument("--queries-per-month", type=_whole(0), default=100)
    parser.add_argument("--days-per-query", type=_whole(1), default=30)
    parser.add_argument("--alarms", type=_whole(0), default=0)
    parser.add_argument("--dashboards", type=_whole(0), default=0)
    parser.add_argument("--refine-runs", type=_whole(0), default=0)
    parser.add_argument("--refine-statements", type=_whole(1), default=cost_optional.Use.refine_statements)
    parser.add_argument("--pull-runs", type=_whole(0), default=0)
    parser.add_argument("--pull-pages", type=_whole(0), default=0)
    parser.add_argument("--deliver-runs", type=_whole(0), default=0)
    parser.add_argument("--deliver-rows", type=_whole(0), default=0)
    parser.add_argument("--from-stack", action="store_true")
    parser.add_argument("--days", type=_whole(1, 455), default=7)
    parser.add_argument("--compare", action="store_true")
    parser.add_argument("--prices", type=Path, default=cost_prices.PRICE_FILE)
    parser.add_argument("--free-tier", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    given = [option for option in came_in if getattr(options, option[2:].replace("-", "_")) is not None]
    if options.compare and (options.from_stack or given != ["--bytes"]):
        parser.error("--compare takes --bytes, and neither --from-stack nor what comes in")
    if options.from_stack and given:
        parser.error(f"--from-stack measures what {given[0]} says: give one of them")
    if not options.from_stack and not options.compare and len(given) < len(came_in):
        absent = ", ".join(option for option in came_in if option not in given)
        parser.error(f"{absent} must be given, or --from-stack")
    if options.local and not options.from_stack:
        parser.error("--local goes with --from-stack")
    return options


if __name__ == "__main__":
    main(cost)
