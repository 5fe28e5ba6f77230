"""Whether IAM alone controls access to a new table of the account, or Lake Formation as well.

Where Lake Formation does, AWS refuses to create a delivery stream with conversion to Parquet: its role has no grant on
the table of the rows, and cannot have one before both exist. docs/operating.md#lake-formation has the rest.
"""

from __future__ import annotations

from typing import TypedDict

from botocore.exceptions import ClientError, EndpointConnectionError

from scripts.commands.common.console import CommandError, say
from scripts.commands.common.stack import Aws

_MORE = "docs/operating.md#lake-formation"


class DataLakePrincipal(TypedDict):
    """The receiver of a grant."""

    DataLakePrincipalIdentifier: str


class PrincipalPermissions(TypedDict):
    """A principal's grants on every new table or database."""

    Principal: DataLakePrincipal
    Permissions: list[str]


def check_new_tables(aws: Aws, output_format: str) -> None:
    """Stop where a new stack could not be created; warn where its tables could not be queried, or it is not known.

    Raises:
        CommandError: Lake Formation rules new tables, and the stream would convert to Parquet.
    """
    if aws.is_local:  # there is no Lake Formation
        return
    try:
        settings = aws.client("lakeformation").get_data_lake_settings()["DataLakeSettings"]
    except (ClientError, EndpointConnectionError) as error:
        say(f"Whether Lake Formation rules new tables is not known ({error}). If the stream is refused: {_MORE}")
        return
    defaults = ("CreateDatabaseDefaultPermissions", "CreateTableDefaultPermissions")
    if all(_is_open(settings.get(name, [])) for name in defaults):
        return
    if output_format != "PARQUET":
        say(f"Lake Formation rules new tables in {aws.region}: who queries them needs its grants ({_MORE}).")
        return
    raise CommandError(
        f"Lake Formation rules new tables in {aws.region}, so Firehose may not read the table that it converts by. "
        f"A data lake administrator can tick both 'Use only IAM access control' under Data Catalog settings until this "
        f"has been run again; or deploy with --parameter OutputFormat=JSON ({_MORE})"
    )


def _is_open(granted: list[PrincipalPermissions]) -> bool:
    """Whether everything new is granted to everybody with IAM's permission."""
    return any(
        one["Principal"]["DataLakePrincipalIdentifier"] == "IAM_ALLOWED_PRINCIPALS" and "ALL" in one["Permissions"]
        for one in granted
    )
