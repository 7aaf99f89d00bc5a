"""Identifiers as their own types, so that swapping two arguments fails type checking."""

import re
from dataclasses import dataclass
from typing import NewType, Protocol

from steelyard.core.errors import InvalidInput, NotFound

TenantId = NewType("TenantId", str)
UserId = NewType("UserId", str)
AccountId = NewType("AccountId", int)

DEFAULT_TENANT = TenantId("default")

_TENANT = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_POSITIVE = re.compile(r"[1-9][0-9]{0,17}")
_TRANSACTION = re.compile(r"([1-9][0-9]{0,17})-([1-9][0-9]{0,17})")


def parse_tenant_id(text: str) -> TenantId:
    """Return `text` as a tenant id: 1 to 63 of a-z, 0-9 and -, not beginning with -.

    Raises:
        InvalidInput: It is not one.
    """
    if not _TENANT.fullmatch(text):
        raise InvalidInput(
            field="tenant",
            problem="a tenant id is 1 to 63 of a-z, 0-9 and '-', not beginning with '-'",
        )
    return TenantId(text)


def parse_user_id(text: str) -> UserId:
    """Return `text` as a user id: 1 to 128 printable characters.

    Raises:
        InvalidInput: It is empty, longer, or holds control characters.
    """
    if not 1 <= len(text) <= 128 or not text.isprintable():
        raise InvalidInput(field="user_id", problem="a user id is 1 to 128 printable characters")
    return UserId(text)


def parse_account_id(text: str) -> AccountId:
    """Return `text` as an account id.

    Raises:
        NotFound: It is no account id; whether one exists is never told apart.
    """
    if not _POSITIVE.fullmatch(text):
        raise NotFound(kind="account", identifier=text[:40])
    return AccountId(int(text))


@dataclass(frozen=True, slots=True)
class TransactionId:
    """Where a transaction's first change stands: its account and the change's `seq`.

    Written `1042-17`. A hold's id is of the same form: the change that set the money aside.
    """

    account: AccountId
    seq: int

    def __str__(self) -> str:
        return f"{self.account}-{self.seq}"

    @classmethod
    def parse(cls, text: str) -> "TransactionId":
        """Read the written form.

        Raises:
            NotFound: It is not of this form.
        """
        match = _TRANSACTION.fullmatch(text)
        if match is None:
            raise NotFound(kind="transaction", identifier=text[:40])
        return cls(AccountId(int(match[1])), int(match[2]))


class IdSource(Protocol):
    """Makes identifiers nobody can guess."""

    def new_id(self) -> str:
        """Return a new one: 32 hexadecimal characters."""
        ...
