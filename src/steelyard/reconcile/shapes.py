"""What goes over the wire about proofs: integers of minor units with their currency."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr

from steelyard.reconcile.model import Discrepancy, Fixed, Report

SHOWN_MAX = 1_000
"""Discrepancies listed in one answer; the counts are always of all."""


class GivenVerify(BaseModel):
    """What to prove: one user, or the whole tenant; `incremental`: only what is new."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    user_id: Annotated[StrictStr, Field(min_length=1, max_length=128)] | None = None
    depth: Literal["arithmetic", "chain"] = "chain"
    incremental: StrictBool = False


class GivenFix(BaseModel):
    """What to prove and repair: one user, or the whole tenant."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    user_id: Annotated[StrictStr, Field(min_length=1, max_length=128)] | None = None


class ToldDiscrepancy(BaseModel):
    """A stored value that differs from the one derived from the changes; amounts in minor units."""

    model_config = ConfigDict(frozen=True)

    fault: str
    account: str | None
    user: str | None
    currency: str | None
    digits: int
    stored: int | None
    actual: int | None
    difference: int
    seq: int | None
    detail: str


class ToldFixed(BaseModel):
    """What a fix did with an account; balances in minor units."""

    model_config = ConfigDict(frozen=True)

    account: str
    user: str | None
    currency: str
    outcome: str
    posted_before: int
    posted: int
    held_before: int
    held: int
    restored: int


class ToldReport(BaseModel):
    """A proof: users checked, in sync and fixed; all that was found, what remains, what was done."""

    model_config = ConfigDict(frozen=True)

    checked: int
    synced: int
    fixed: int
    accounts: int
    clean: bool
    found: int
    remaining: int
    details: list[ToldDiscrepancy]
    errors: list[ToldDiscrepancy]
    touched: list[ToldFixed]


class ToldDiscrepancies(BaseModel):
    """Discrepancies, the largest difference first."""

    model_config = ConfigDict(frozen=True)

    found: int
    data: list[ToldDiscrepancy]


def tell_discrepancy(one: Discrepancy) -> ToldDiscrepancy:
    """Return what is told of a discrepancy."""
    return ToldDiscrepancy(
        fault=one.fault.value,
        account=None if one.account is None else str(one.account),
        user=one.user,
        currency=one.currency,
        digits=one.digits,
        stored=one.stored,
        actual=one.actual,
        difference=one.difference,
        seq=one.seq,
        detail=one.sentence,
    )


def tell_fixed(one: Fixed) -> ToldFixed:
    """Return what is told of an account a fix touched."""
    return ToldFixed(
        account=str(one.account),
        user=one.user,
        currency=one.currency,
        outcome=one.outcome.value,
        posted_before=one.posted_before,
        posted=one.posted,
        held_before=one.held_before,
        held=one.held,
        restored=one.restored,
    )


def tell_report(report: Report) -> ToldReport:
    """Return what is told of a proof; lists are cut at `SHOWN_MAX`."""
    return ToldReport(
        checked=report.checked,
        synced=report.synced,
        fixed=report.fixed,
        accounts=report.accounts,
        clean=report.is_clean,
        found=len(report.details),
        remaining=len(report.errors),
        details=[tell_discrepancy(one) for one in report.details[:SHOWN_MAX]],
        errors=[tell_discrepancy(one) for one in report.errors[:SHOWN_MAX]],
        touched=[tell_fixed(one) for one in report.touched[:SHOWN_MAX]],
    )
