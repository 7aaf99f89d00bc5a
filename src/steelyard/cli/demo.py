"""The month of card purchases that a fresh `steelyard up` loads."""

import asyncio
from importlib import resources
from pathlib import Path

from steelyard.cli.outcome import say
from steelyard.cli.purchase_file import reader_of
from steelyard.core.errors import SteelyardError
from steelyard.core.ids import DEFAULT_TENANT
from steelyard.ledger.import_purchases import (
    ImportOutcome,
    ImportPorts,
    ImportRequest,
    import_purchases,
)
from steelyard.ledger.purchases import CURRENCY_CODE
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.datafolder import DemoState, ProductFolder, note_demo_state, read_demo_state

DEMO_FILE = "card-purchases-2014-10.csv"
WAIT_S = 3.0
"""How long a start waits for the demo data; after that it goes on loading beside the server."""


def demo_file() -> Path:
    """Return the file of purchases that the package ships."""
    return Path(str(resources.files("steelyard") / "data" / DEMO_FILE))


def is_demo_due(folder: ProductFolder, wanted: bool | None) -> bool:
    """Decide whether to load, and note it: a fresh folder gets the demo unless it is declined.

    An interrupted load is due again. A folder that declined once gets it only when asked for.
    """
    state = read_demo_state(folder)
    if state is DemoState.LOADED and wanted is not True:
        return False
    if wanted is False or (wanted is None and state is DemoState.DECLINED):
        if state is DemoState.UNDECIDED:
            note_demo_state(folder, DemoState.DECLINED)
        return False
    note_demo_state(folder, DemoState.LOADING)
    return True


async def load_demo(ports: ImportPorts, folder: ProductFolder) -> ImportOutcome:
    """Load the month; what an earlier, interrupted load posted is not posted again."""
    currency = find_currency(CURRENCY_CODE)
    request = ImportRequest(DEFAULT_TENANT, DEMO_FILE, currency, tops_up=True)
    outcome = await import_purchases(ports, request, reader_of(demo_file(), DEMO_FILE, currency))
    note_demo_state(folder, DemoState.LOADED)
    return outcome


async def wait_a_while(loading: "asyncio.Task[ImportOutcome]") -> ImportOutcome | None:
    """Wait for the load as long as a start may; None when it goes on in the background.

    Raises:
        SteelyardError: It failed; the next start tries again.
    """
    done, _ = await asyncio.wait({loading}, timeout=WAIT_S)
    if done:
        return loading.result()
    loading.add_done_callback(_tell_end)
    return None


def _tell_end(loading: "asyncio.Task[ImportOutcome]") -> None:
    if loading.cancelled():
        return
    error = loading.exception()
    if error is None:
        say(f"  demo data loaded: {loading.result().lines:,} purchases")
    elif isinstance(error, SteelyardError):
        say(f"  the demo data is not complete ({error}); the next start goes on")
    else:
        raise error
