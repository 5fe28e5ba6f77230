"""The bill of a month, by an estimate or from a stack's metrics, and the first limit of its load."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace

from rich import box
from rich.console import Console
from rich.table import Table

from scripts.commands.common.console import Parser, UsageError, main, say
from scripts.commands.common.stack import add_stack_arguments, session
from scripts.commands.common.tables import size
from scripts.commands.cost import model, prices, stack
from scripts.commands.cost.model import Line, Workload
from scripts.commands.cost.prices import Price, Prices

LEFT_OUT = (
    "a KMS key of your own, the Glue catalogue (its first million requests a month are free), Athena's results, raw/, "
    "rejected/ and errors/ (--from-stack measures their storage), taxes, discounts, what is free in every account"
)


@dataclass(frozen=True)
class Bill:
    """A bill and its workload. `unpriced` names the stack's resource types missing from the bill."""

    prices: Prices
    workload: Workload
    lines: list[Line]
    region: str
    unpriced: str = "functions, queries and queues of optional stacks"

    @property
    def total(self) -> float:
        return model.total(self.lines)


def cost(arguments: list[str]) -> int:
    """scripts/cost.sh"""
    options = _parse(arguments)
    listed = prices.read()
    if not options.from_stack:
        workload = Workload(options.events_per_month, options.bytes, options.events_per_request)
        if options.events_per_request > workload.largest_pack:
            raise UsageError(
                f"--events-per-request: a request holds 1,000,000 bytes and 10,000 events, so "
                f"{workload.largest_pack:,} events of {options.bytes:,} bytes at most "
                f"(got {options.events_per_request:,})"
            )
        write(Bill(listed, workload, model.bill(model.quantities(workload), listed), listed.region))
        return 0
    aws = session(options)
    measured = stack.measure(aws, options.stack_name)
    say(f"Stack '{options.stack_name}' in {aws.place}, measured for {_duration(measured.seconds)}")
    if aws.region != listed.region or aws.is_local:
        say(f"The prices are those of {listed.region} on AWS")
    lines = model.bill(measured.quantities, listed)
    estimated = [listed[line.key].item for line in lines if line.key not in measured.known]
    say(f"Estimated, because no metric tells them: {', '.join(estimated)}")
    write(Bill(listed, measured.workload, lines, aws.region, ", ".join(measured.unpriced)))
    return 0


# Output


def write(told: Bill) -> None:
    """Write the bill, its largest line and the first limit to stdout, and the omissions to stderr."""
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
    for line in told.lines:
        price = told.prices[line.key]
        table.add_row(
            price.service,
            price.item,
            quantity(line.quantity, price),
            unit_price(price),
            f"{line.dollars:,.2f}",
            f"{line.dollars / told.total:.0%}" if told.total else "",
        )
    console = Console()
    if not console.is_terminal:
        console.width = 160
    console.print(table)
    for text in (dominant(told), first_limit(told)):
        console.print(text, highlight=False, soft_wrap=True)
    say(
        f"List prices of {told.prices.region}, gathered {told.prices.gathered} from public sources (docs/cost.md): "
        f"check them before you rely on them. Not in it: {LEFT_OUT}{told.unpriced and f'; {told.unpriced}'}",
        style="dim",
    )


def dominant(told: Bill) -> str:
    """The largest line of the bill, and the saving by batches."""
    line = max(told.lines, key=lambda line: line.dollars)
    price, events = told.prices[line.key], told.workload.events_per_month
    text = (
        f"What dominates: {price.service}, {price.item}: {line.dollars:,.2f} of {told.total:,.2f} USD. "
        f"A million events cost {told.total / events * 1e6:,.2f} USD."
    )
    # scripts/track.sh fills half of a request.
    packed = replace(
        told.workload, events_per_request=max(told.workload.largest_pack // 2, told.workload.events_per_request)
    )
    before, after = (
        model.total(model.bill(model.quantities(workload), told.prices)) for workload in (told.workload, packed)
    )
    if after >= before:
        return text
    return f"{text} Batches of {packed.events_per_request:,} events would save {before - after:,.2f} USD."


def first_limit(told: Bill) -> str:
    """The first limit of this load; if it is the stack's own throttle, also the first of AWS."""
    found = [f"{limit.what} ({100 * limit.share:,.3g} %)" for limit in model.limits(told.workload, told.region)]
    then = f"; after it {found[1]}" if found[0].startswith("ThrottleRateLimit") else ""
    return f"The first limit of this load, if it comes evenly: {found[0]}{then}. docs/scale.md says what to change."


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


# Arguments


def _whole(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number of 1 or more")
    return number


def _bytes(text: str) -> int:
    number = _whole(text)
    if not 2 <= number <= model.LARGEST_BODY:
        raise argparse.ArgumentTypeError(f"an event has 2 to {model.LARGEST_BODY:,} bytes (got {text})")
    return number


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = Parser("cost")
    add_stack_arguments(parser)
    parser.add_argument("--events-per-month", type=_whole)
    parser.add_argument("--bytes", type=_bytes)
    parser.add_argument("--events-per-request", type=_whole)
    parser.add_argument("--from-stack", action="store_true")
    options = parser.parse_args(arguments)
    came_in = ("--events-per-month", "--bytes", "--events-per-request")
    absent = [option for option in came_in if getattr(options, option[2:].replace("-", "_")) is None]
    if options.from_stack and len(absent) < len(came_in):
        parser.error(f"--from-stack measures {', '.join(came_in)}: leave these out")
    if not options.from_stack and absent:
        parser.error(f"{', '.join(absent)} must be given, or --from-stack")
    if "--local" in arguments and not options.from_stack:
        parser.error("--local goes with --from-stack")
    return options


if __name__ == "__main__":
    main(cost)
