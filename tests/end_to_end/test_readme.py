"""The README's blocks in its order, typed at a terminal; the commands for AWS reach the local AWS."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.browser import Site
from tests.conftest import ROOT, environment_of_a_new_machine, free_port

pytestmark = pytest.mark.slow

BLOCKS = re.findall(r"^```(bash|python|javascript)\n(.+?)^```$", (ROOT / "README.md").read_text(), re.M | re.S)
ALL_TESTS = "scripts/test.sh\n"  # runs this test, too
CONSOLE = "scripts/console.sh --local\n"
# It serves until it is ended: here, until its first page is there.
SERVED = """
scripts/console.sh --local --port {port} &
until curl --silent --fail --output /dev/null http://127.0.0.1:{port}/; do kill -0 $!; sleep 0.2; done
kill $!
wait $! || [[ $? == 143 ]]
"""
PROMPTS = {b"[y/N]": b"y\n", b"Type the stack's name to delete it (sluice):": b"sluice\n"}


def session() -> str:
    """The blocks as one shell session, ending at the first failed command."""
    lines = ["set -exo pipefail"]
    for language, block in BLOCKS:
        if language == "bash" and block != ALL_TESTS:
            lines.append(block.replace(CONSOLE, SERVED.format(port=free_port())))
        elif language == "python" and block.startswith("import "):  # other blocks are parts of files
            lines.append(f"python3 - <<'END_OF_BLOCK'\n{block}END_OF_BLOCK")
    return "\n".join(lines)


def at_a_terminal(script: str, environment: dict[str, str]) -> tuple[int, str]:
    """Run a script of bash with a terminal, answer its questions, and return its exit code and its output."""
    terminal, inner = os.openpty()
    process = subprocess.Popen(
        ["bash", "-c", script], cwd=ROOT, env=environment, stdin=inner, stdout=inner, stderr=inner
    )
    os.close(inner)
    output, answered = b"", 0
    while True:
        try:
            output += os.read(terminal, 1 << 16)
        except OSError:  # nobody holds the other end any more
            break
        for prompt, answer in PROMPTS.items():
            if prompt in output[answered:]:
                answered = len(output)
                os.write(terminal, answer)
    os.close(terminal)
    return process.wait(), output.decode()


def test_every_shell_block_works_as_typed(tmp_path: Path) -> None:
    environment = environment_of_a_new_machine(
        HOME=str(tmp_path),
        TERM="xterm",
        SLUICE_LOCAL="1",
        SLUICE_LOCAL_STATE=str(tmp_path / "state"),
        SLUICE_LOCAL_PORT=str(free_port()),
    )
    try:
        code, output = at_a_terminal(session(), environment)
        assert code == 0, output
        assert (
            len(re.findall(r'^{"recordId": "\d+"}', output, re.M)) == 3
        )  # by curl, and by track.sh locally and on AWS
        assert "checks are as expected" in output
        assert "Stopped the local AWS." in output
    finally:
        subprocess.run(["bash", ROOT / "scripts/local.sh", "stop"], env=environment, check=True)


def test_the_page_sends_an_event_as_typed(page: Page, site: Site) -> None:
    (block,) = (block for language, block in BLOCKS if language == "javascript")
    page.goto(site.url("localhost"))  # crypto.randomUUID is for pages of https and of this machine
    with page.expect_request("**/track") as sent:
        page.evaluate(f"(trackUrl) => {{ {block} }}", site.url("127.0.0.1", "/track"))
    event = sent.value.post_data_json
    assert (event["name"], event["action"], len(event["event_id"])) == ("page", "view", 36)


def test_the_readme_is_read_in_a_few_minutes() -> None:
    words = len((ROOT / "README.md").read_text().split())
    assert words <= 1200, f"README.md has {words} words, at most 1,200: move tables and details to docs/"
