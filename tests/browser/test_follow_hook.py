"""The hook of the reference that follows a run, as the how-to shows it, on React's two functions in Node.js."""

import asyncio
import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path

import pytest

from steelyard.core.ids import DEFAULT_TENANT
from steelyard.jobs.model import State
from steelyard.runtime.database import Database
from tests.browser.install import Clients
from tests.e2e.server_kit import Server
from tests.runs_kit import write_run
from tests.world import FreshDatabase

PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "follow-a-run.md"
# The code block "Monitoring Sync Status" of the reference, byte for byte.
REFERENCE = "447b41baa6d7d735f6cde8b5396f5bd123ef80fd1ff15ae544da0f72b128e36e"
# `useState` tells each new status on a line; `useEffect` runs once, as in a component whose inputs stay. The two seconds
# between two questions are 20 ms here. It ends when the hook has stopped asking.
AROUND = """
const told = ['PENDING'];
const useState = (first) => [first, (next) => { if (told.at(-1) !== next) { told.push(next); console.log(next); } }];
const useEffect = (effect) => { effect(); };
const setInterval = (act, ms) => { return globalThis.setInterval(act, ms / 100); };
const clearInterval = (id) => { if (id) { globalThis.clearInterval(id); } };
const fetch = (path, options) => globalThis.fetch(process.argv[2] + path, options);
console.error = () => {};
%s
useSyncStatus({ runId: process.argv[3], accessToken: process.argv[4] });
"""


def hook() -> str:
    """The block of the page."""
    [block] = re.findall(r"```javascript\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert hashlib.sha256(block.encode()).hexdigest() == REFERENCE
    return str(block)


@pytest.mark.parametrize(
    ("end", "token", "expected"),
    [
        (State.COMPLETED, "right", ["PENDING", "RUNNING", "COMPLETED"]),
        (State.CANCELLED, "right", ["PENDING", "RUNNING", "FAILED"]),
        (State.COMPLETED, "wrong", ["PENDING", "FAILED"]),
    ],
)
async def test_the_hook_of_the_reference_follows_a_run_to_its_end(
    clients: Clients,
    product: Server,
    product_database: FreshDatabase,
    tmp_path: Path,
    end: State,
    token: str,
    expected: list[str],
) -> None:
    code = hook().replace("import { useState, useEffect } from 'react';", "")
    script = tmp_path / "follow.mjs"
    script.write_text(AROUND % code.replace("export function", "function"), encoding="utf-8")
    database = await Database.open(product_database.app_url, pool_size=2)
    run = await write_run(database, at=datetime.now(UTC), state=State.RUNNING, token="right")
    process = await asyncio.create_subprocess_exec(
        clients.node,
        script,
        product.url,
        str(run),
        token,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        told = ["PENDING"]
        if token == "right":
            async with asyncio.timeout(20):
                told.append((await process.stdout.readline()).decode().strip())
        async with database.unit_of_work(DEFAULT_TENANT) as uow:
            await uow.execute(
                "UPDATE steelyard.run SET state = $2, finished_at = now() WHERE id = $1", run, end
            )
        async with asyncio.timeout(20):
            out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
        await database.close()
    assert [*told, *out.decode().split()] == expected
