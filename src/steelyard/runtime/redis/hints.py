"""Messages on the channel: the reference's event structure with our additions, signed.

A message ends in the process it comes from and a signature over channel and text, made with the installation's
key. Whoever only listens reads plain JSON; another process of ours believes nothing that is not signed.
"""

import hmac
import re
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

import msgspec

from steelyard.core.errors import SteelyardError
from steelyard.core.ids import (
    TenantId,
    TransactionId,
    UserId,
    parse_account_id,
    parse_user_id,
)
from steelyard.core.money import LARGEST_MINOR, shortest_major
from steelyard.runtime.bus import BalanceEvent
from steelyard.runtime.currencies import find_currency
from steelyard.runtime.event_payloads import (
    completed_payload,
    completes_transaction,
    failed_payload,
    insufficient_payload,
    updated_payload,
)
from steelyard.runtime.redis.keys import channel_of

MESSAGE_BYTES_MAX = 8 * 1024
REFUSAL_AGE_S_MAX = 30.0
"""A refusal has no seq: one older than this, or heard before, is not told again."""
REMEMBERED_MAX = 100_000

_BEFORE_SIGNATURE: Final = b',"signature":"'
_TAIL: Final = len(_BEFORE_SIGNATURE) + 64 + len(b'"}')
_COMPLETED: Final = b'{"event":"transaction_completed",'
_REFERENCE = re.compile(r"[A-Za-z0-9-]{1,64}")


class _Message(msgspec.Struct, rename="camel"):
    """What a hint says, numbers in major units."""

    event: Literal["balance_updated", "balance_insufficient", "transaction_failed"]
    user_id: str
    account_id: str
    currency: str
    kind: str
    posted: Decimal
    held: Decimal
    timestamp: datetime
    seq: int | None = None
    amount: Decimal = Decimal(0)
    transaction_id: str | None = None
    required_amount: Decimal | None = None


class HintUnreadable(ValueError):
    """A signed message does not say what a hint says."""


@dataclass(slots=True)
class Hints:
    """Writes and reads messages with one installation's key."""

    key: bytes = field(repr=False)
    origin: str
    """This process: 16 hexadecimal characters."""
    _seen: OrderedDict[bytes, datetime] = field(default_factory=OrderedDict)

    def write(self, event: BalanceEvent, *, is_primary: bool) -> list[tuple[str, str]]:
        """Return the messages that tell of an event of a user's account, each with its channel, in order.

        The first is the hint; those after it are for old listeners and are not signed.
        """
        assert event.user is not None, "books are told to nobody"
        channel = channel_of(event.tenant, is_primary=is_primary)
        user = msgspec.json.encode(event.user).decode()
        (name, said), *others = _texts_of(event)
        hint = self._signed(channel, f'{{"event":"{name}","userId":{user},{said}')
        return [
            (channel, hint),
            *((channel, f'{{"event":"{name}","userId":{user},{said}}}') for name, said in others),
        ]

    def is_own(self, message: bytes) -> bool:
        """Say whether this process wrote it."""
        end = len(message) - _TAIL - 1
        return message[end - 16 : end] == self.origin.encode()

    def is_told_otherwise(self, message: bytes) -> bool:
        """Say whether it is for old listeners only: what completed is told by `balance_updated` too."""
        return message.startswith(_COMPLETED)

    def is_signed(self, channel: str, message: bytes) -> bool:
        """Say whether a process of this installation wrote it for this channel."""
        text, signature = message[:-_TAIL], message[-66:-2]
        expected = self._signature(channel, text).encode()
        has_form = message[-_TAIL:-66] == _BEFORE_SIGNATURE and message.endswith(b'"}')
        return has_form and hmac.compare_digest(expected, signature)

    def read(self, tenant: TenantId, message: bytes) -> BalanceEvent:
        """Return the event that a signed message tells of.

        Raises:
            HintUnreadable: It does not say all of one.
        """
        try:
            said = msgspec.json.decode(message, type=_Message)
            return _event_of(tenant, said)
        except (
            msgspec.DecodeError,
            SteelyardError,
            ValueError,
            ArithmeticError,
            RecursionError,
        ) as error:
            raise HintUnreadable(type(error).__name__) from None

    def is_news(self, message: bytes, event: BalanceEvent, *, now: datetime) -> bool:
        """Say whether a refusal is new: a copy of an earlier message must not be told twice. A step has its seq."""
        if event.seq is not None:
            return True
        if abs((now - event.at).total_seconds()) > REFUSAL_AGE_S_MAX:
            return False
        while self._seen:
            oldest, at = next(iter(self._seen.items()))
            if (now - at).total_seconds() <= 2 * REFUSAL_AGE_S_MAX:
                break
            del self._seen[oldest]
        signature = message[-66:-2]
        if signature in self._seen or len(self._seen) >= REMEMBERED_MAX:
            return False
        self._seen[signature] = now
        return True

    def _signed(self, channel: str, said: str) -> str:
        text = f'{said},"origin":"{self.origin}"'
        return f'{text},"signature":"{self._signature(channel, text.encode())}"}}'

    def _signature(self, channel: str, text: bytes) -> str:
        return hmac.digest(self.key, b"hint\n%b\n%b" % (channel.encode(), text), "sha256").hex()


def whose(message: bytes) -> tuple[str | None, str | None]:
    """Return the account and the user that an unsigned message names, as text, to look at; it is believed nothing else."""
    try:
        said = msgspec.json.decode(message)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return None, None
    if not isinstance(said, dict):
        return None, None
    account, user = said.get("accountId"), said.get("userId")
    return (
        account if isinstance(account, str) else None,
        user if isinstance(user, str) else None,
    )


def _texts_of(event: BalanceEvent) -> list[tuple[str, str]]:
    """Return names and members of the messages, without braces."""
    kind = f',"kind":"{event.kind}"'
    if event.seq is not None:
        previous = event.available - event.amount
        said = updated_payload(event, previous=previous, prev_seq=event.seq - 1)
        texts = [("balance_updated", said[1:-1] + kind)]
        if completes_transaction(event):
            texts.append(("transaction_completed", completed_payload(event)[1:-1] + kind))
        return texts
    digits = find_currency(event.currency).digits
    standing = (
        f',"newBalance":{shortest_major(event.available, digits)}'
        f',"posted":{shortest_major(event.posted, digits)},"held":{shortest_major(event.held, digits)}{kind}'
    )
    if event.event == "balance_insufficient":
        return [(event.event, insufficient_payload(event)[1:-1] + standing)]
    return [(event.event, failed_payload(event, event.reference or "")[1:-1] + standing)]


def _event_of(tenant: TenantId, said: _Message) -> BalanceEvent:
    digits = find_currency(said.currency).digits
    is_step = said.event == "balance_updated"
    if is_step is not (said.seq is not None and said.seq > 0) or said.timestamp.tzinfo is None:
        raise ValueError
    named, is_topup = said.transaction_id, said.event == "transaction_failed"
    if is_topup and (named is None or not _REFERENCE.fullmatch(named)):
        raise ValueError
    return BalanceEvent(
        event=said.event,
        tenant=tenant,
        account=parse_account_id(said.account_id),
        user=UserId(parse_user_id(said.user_id)),
        currency=said.currency,
        seq=said.seq,
        kind=said.kind,
        amount=_minor(said.amount, digits) if is_step else 0,
        posted=_minor(said.posted, digits),
        held=_minor(said.held, digits),
        at=said.timestamp,
        transaction=TransactionId.parse(named) if is_step and named is not None else None,
        required=None if said.required_amount is None else _minor(said.required_amount, digits),
        reference=named if is_topup else None,
    )


def _minor(number: Decimal, digits: int) -> int:
    minor = number.scaleb(digits)
    if minor != minor.to_integral_value() or abs(minor) > LARGEST_MINOR:
        raise ValueError
    return int(minor)
