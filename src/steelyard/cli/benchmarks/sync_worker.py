"""One worker of `bench sync`, in a process of its own: `python -m steelyard.cli.benchmarks.sync_worker`.

The whole product as a process opens it, with a core bank named in its settings. The plan comes as one line of JSON on
stdin; a line on stdout says that it works. It ends, in order, when stdin does.
"""

import asyncio
import sys

import msgspec

from steelyard.cli.benchmarks.product import open_product
from steelyard.cli.benchmarks.sync_bank import KEY
from steelyard.cli.serving import run_in_loop
from steelyard.runtime.logs import configure_logs


class WorkerPlan(msgspec.Struct, frozen=True):
    """Where a worker works, and how much the bank allows."""

    database_url: str
    bank_url: str
    requests_per_s: float
    in_flight: int


async def _run() -> None:
    loop = asyncio.get_running_loop()
    plan = msgspec.json.decode(sys.stdin.buffer.readline(), type=WorkerPlan)
    configure_logs(form="json", level="warning")
    bank = {
        "t24_api_url": plan.bank_url,
        "t24_api_key": KEY,
        "t24_requests_per_s": plan.requests_per_s,
        "t24_in_flight": plan.in_flight,
    }
    async with open_product(plan.database_url, settings=bank):
        sys.stdout.write("works\n")
        sys.stdout.flush()
        await loop.run_in_executor(None, sys.stdin.buffer.readline)


if __name__ == "__main__":
    run_in_loop(_run(), wants_uvloop=True)
