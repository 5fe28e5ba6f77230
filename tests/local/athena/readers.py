"""One real task with each common reader of Athena, as its pages show it; the endpoint is in the environment alone.

Runs in an environment with the readers alone (scripts/test.sh --clients). Prints each result in one JSON object.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import awswrangler
import boto3
import pandas
from pyathena import connect
from pyathena.cursor import DictCursor
from pyathena.pandas.cursor import PandasCursor
from sqlalchemy import MetaData, Table, create_engine, func, inspect, select

DATABASE, OUTPUT = "readers", "s3://readers/results/"
SQL = "SELECT name, count(*) AS n, sum(value) AS total FROM events GROUP BY name ORDER BY name"


def with_boto3() -> Any:
    athena = boto3.client("athena")
    started = athena.start_query_execution(
        QueryString=SQL,
        QueryExecutionContext={"Database": DATABASE},
        ResultConfiguration={"OutputLocation": OUTPUT},
    )
    identifier = started["QueryExecutionId"]
    while athena.get_query_execution(QueryExecutionId=identifier)["QueryExecution"]["Status"]["State"] in (
        "QUEUED",
        "RUNNING",
    ):
        pass
    pages = athena.get_paginator("get_query_results").paginate(QueryExecutionId=identifier)
    return [[cell.get("VarCharValue") for cell in row["Data"]] for page in pages for row in page["ResultSet"]["Rows"]]


def with_the_cli() -> Any:
    aws = str(Path(sys.executable).with_name("aws"))
    asked = [aws, "athena", "get-table-metadata", "--catalog-name", "AwsDataCatalog", "--database-name", DATABASE]
    done = subprocess.run([*asked, "--table-name", "events"], capture_output=True, text=True, check=True)
    return [column["Name"] for column in json.loads(done.stdout)["TableMetadata"]["Columns"]]


def with_pyathena() -> Any:
    cursor = connect(s3_staging_dir=OUTPUT, schema_name=DATABASE).cursor()
    cursor.execute("SELECT name FROM events WHERE name <> %(name)s ORDER BY 1", {"name": "it's"})
    return [column[0] for column in cursor.description], cursor.fetchall()


def with_a_dict_cursor() -> Any:
    cursor = connect(s3_staging_dir=OUTPUT, schema_name=DATABASE, cursor_class=DictCursor).cursor()
    return cursor.execute(SQL).fetchall()


def with_a_pandas_cursor() -> Any:
    cursor = connect(s3_staging_dir=OUTPUT, schema_name=DATABASE, cursor_class=PandasCursor).cursor()
    return cursor.execute(SQL).as_pandas().to_dict("list")


def engine() -> Any:
    host = f"awsathena+rest://athena.{os.environ['AWS_REGION']}.amazonaws.com:443"
    return create_engine(f"{host}/{DATABASE}?s3_staging_dir={OUTPUT}")


def with_sqlalchemy() -> Any:
    found = inspect(engine())
    events = Table("events", MetaData(), autoload_with=engine())
    with engine().connect() as connection:
        rows = connection.execute(select(events.c.name, func.count()).group_by(events.c.name).order_by(events.c.name))
        counted = [list(row) for row in rows]
    return DATABASE in found.get_schema_names(), found.get_table_names(), list(events.columns.keys()), counted


def with_pandas() -> Any:
    return pandas.read_sql(SQL, engine()).to_dict("list")


def with_awswrangler() -> Any:
    asked = {"database": DATABASE, "s3_output": OUTPUT}
    types = awswrangler.catalog.get_table_types(database=DATABASE, table="events")
    by_a_table = awswrangler.athena.read_sql_query(SQL, **asked).to_dict("list")
    by_the_result = awswrangler.athena.read_sql_query(SQL, ctas_approach=False, **asked).to_dict("list")
    described = awswrangler.athena.describe_table(table="events", **asked)
    return types, by_a_table == by_the_result, by_a_table, described["Column Name"].tolist()


if __name__ == "__main__":
    tasks = {name: task for name, task in list(globals().items()) if name.startswith("with_")}
    json.dump({name: task() for name, task in tasks.items()}, sys.stdout)
