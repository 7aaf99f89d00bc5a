"""Steers a simulated core bank that runs: breaks and repairs it, posts to its accounts, tells its true balances."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import typer

from steelyard.cli.outcome import CommandFailed, print_json, print_table, show
from steelyard.core.errors import InvalidInput

if TYPE_CHECKING:
    from pathlib import Path

    from steelyard.runtime.datafolder import ProductFolder

ADDRESS_FILE = "demo-bank-address.json"
_DEADLINE_S = 5.0
_NAMED_MAX = 30
_REFUSED = 422
_SLOW_S = 3.0
"""Longer than a login waits."""


@dataclass(frozen=True, slots=True)
class Steering:
    """What is to be done to a running bank; one of them.

    Args:
        fault: Break it so; with `share`, `wait_s` and `for_s` as in `PlannedFault`.
        repairs: End every fault.
        entry: `NUMBER=AMOUNT`, a credit or a debit in major units.
        wants_truth: Tell every true balance.
    """

    fault: str | None = None
    share: float = 1.0
    wait_s: float | None = None
    for_s: float | None = None
    repairs: bool = False
    entry: str | None = None
    wants_truth: bool = False

    @property
    def is_given(self) -> bool:
        """Whether anything is to be done."""
        return self.repairs or self.wants_truth or bool(self.fault or self.entry)


def steer(at: str | None, data_dir: "Path | None", steering: Steering, *, wants_json: bool) -> None:
    """Do it, and say what was done.

    Raises:
        CommandFailed: No bank answers.
        InvalidInput: The bank refuses the order; nothing was changed.
    """
    asked = [steering.fault, steering.repairs, steering.entry, steering.wants_truth]
    if sum(map(bool, asked)) > 1:
        raise typer.BadParameter("one of --break, --repair, --post and --truth at a time")
    url = (at or find_bank(data_dir)).rstrip("/")
    if steering.fault is not None:
        _break(url, steering)
        told: Mapping[str, Any] = {"url": url, "fault": steering.fault, "for_s": steering.for_s}
        lasts = f"for {steering.for_s:g} s" if steering.for_s else "until --repair"
        text = f"the bank at {url} is broken: {steering.fault}, {lasts}"
    elif steering.repairs:
        _order(url, "DELETE", "/faults")
        told, text = {"url": url, "fault": None}, f"the bank at {url} is well"
    elif steering.entry is not None:
        told = _post(url, steering.entry)
        text = f"account {told['account']} has {told['available']} {told['currency']} at the bank"
    else:
        _tell_truth(url, wants_json=wants_json)
        return
    show(told, wants_json=wants_json, as_text=lambda: typer.echo(text))


def find_bank(data_dir: "Path | None") -> str:
    """Return where the demo bank of a data folder answers.

    Raises:
        DataFolderMissing: There is no data folder.
        CommandFailed: None is noted there.
    """
    from steelyard.cli.options import settings_with
    from steelyard.runtime.datafolder import find_folder

    folder = find_folder(settings_with(data_dir).data_dir)
    url = read_bank_address(folder)
    if url is None:
        raise CommandFailed(
            f"no demo bank runs on {folder.path}; start `steelyard up`, or name a bank with --at"
        )
    return url


def read_bank_address(folder: "ProductFolder") -> str | None:
    """Return the address that `up` noted for its demo bank, or None."""
    try:
        url = json.loads((folder.path / ADDRESS_FILE).read_text(encoding="utf-8"))["url"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return url if isinstance(url, str) else None


def _break(url: str, steering: Steering) -> None:
    from steelyard.providers.t24.simulator.faults import Fault, PlannedFault

    if steering.fault not in list(Fault):
        raise InvalidInput(
            field="break", problem=f"{steering.fault!r} is none of {', '.join(Fault)}"
        )
    wait_s = steering.wait_s
    if wait_s is None:
        wait_s = _SLOW_S if steering.fault == Fault.SLOW else 1.0
    fault = PlannedFault(Fault(steering.fault), steering.share, wait_s=wait_s, for_s=steering.for_s)
    order = {
        "fault": fault.fault,
        "share": fault.share,
        "wait_s": fault.wait_s,
        "for_s": fault.for_s,
    }
    _order(url, "POST", "/faults", order)


def _post(url: str, entry: str) -> dict[str, str]:
    """Post an entry; return the account as it is then, in major units."""
    from steelyard.core.money import Currency, Money, format_major

    number, equals, amount = entry.partition("=")
    books = _order(url, "GET", "/books")
    if not equals or number not in books:
        known = ", ".join(books) if len(books) <= _NAMED_MAX else f"{len(books)} accounts"
        raise InvalidInput(
            field="post", problem=f"it is NUMBER=AMOUNT, with an account of this bank: {known}"
        )
    currency = Currency(books[number]["currency"], books[number]["digits"])
    minor = Money.parse(amount, currency).minor
    truth = _order(url, "POST", f"/accounts/{number}/entries", {"amount": minor})
    available = format_major(truth["available"], currency.digits)
    return {"account": number, "currency": currency.code, "available": available}


def _tell_truth(url: str, *, wants_json: bool) -> None:
    from steelyard.core.money import format_major

    books = _order(url, "GET", "/books")
    if wants_json:
        print_json(books)
        return
    print_table(
        ("Account", "Customer", "Currency", "Available", "Asked for"),
        [
            (
                number,
                one["customer"],
                one["currency"],
                format_major(one["balances"]["available"], one["digits"]),
                str(one["asked"]),
            )
            for number, one in books.items()
        ],
    )


def _order(url: str, method: str, path: str, body: object = None) -> Any:
    """Send an order to a bank's control surface; return what it answers.

    Raises:
        CommandFailed: Nobody answers, or no simulated bank does.
        InvalidInput: The bank refuses the order.
    """
    import httpx2

    try:
        address = f"{url}/_control{path}"
        answer = httpx2.request(method, address, json=body, timeout=_DEADLINE_S, trust_env=False)
        told = answer.json()
    except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
        raise CommandFailed(f"no simulated bank answers at {url}; nothing was changed") from error
    if answer.status_code == _REFUSED:
        raise InvalidInput(field="order", problem=f"the bank says: {told['error']}")
    if not answer.is_success:
        raise CommandFailed(f"what answers at {url} is no simulated bank; nothing was changed")
    return told
