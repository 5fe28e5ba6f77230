"""Fixtures of the tests of refinement."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from moto import mock_aws

from tests.moto_clients import client
from tests.stacks.refine.refine_tables import BUCKET, DATABASE


@pytest.fixture
def aws() -> Iterator[Callable[[str], Any]]:
    with mock_aws():
        client("glue").create_database(DatabaseInput={"Name": DATABASE})
        client("s3").create_bucket(Bucket=BUCKET)
        yield client
