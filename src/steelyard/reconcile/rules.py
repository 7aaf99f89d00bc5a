"""What a proof concludes from evidence. Plain values only; the SQL gathers, this decides.

`steelyard.fix_accounts` follows the same line between a stored number that is wrong, which is made
anew, and a history that does not prove itself, which is never summed.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace

from steelyard.core.ids import AccountId, TenantId
from steelyard.reconcile.model import Discrepancy, Evidence, Fault

_HISTORY_SENTENCES = {
    Fault.GAP: "its changes are not numbered without a gap: see change {seq}",
    Fault.STEP: "change {seq} does not lead from the balance before it to the balance after it",
    Fault.CHAIN: "change {seq} does not fit its hash: it, or the one before it, was altered",
    Fault.OPERATION: "change {seq} and the requests disagree: one is there without the other",
    Fault.LOST: "change {seq} is not there, but the other side of its transfer is",
    Fault.TRANSFER: "change {seq} and the other side of its transfer disagree",
}


def is_broken(evidence: Evidence) -> bool:
    """Whether the history is broken in a way of its own, whatever its transfers say."""
    return (
        evidence.kind is None
        or any(
            seq is not None
            for seq in (
                evidence.gap_seq,
                evidence.step_seq,
                evidence.chain_seq,
                evidence.operation_seq,
                evidence.lost_seq,
            )
        )
        or evidence.checkpoint_problem in ("missing", "rewritten")
        or (evidence.seq > evidence.actual_seq and evidence.head != evidence.actual_head)
    )


def explain(
    tenant: TenantId, evidence: Evidence, *, broken: Collection[AccountId] = ()
) -> list[Discrepancy]:
    """Return every discrepancy that one account's evidence shows; none if it proves the account.

    Where the two sides of a transfer disagree and the other account is one of `broken`, it is to blame.
    """
    if evidence.transfer_seq is not None and set(evidence.transfer_with) <= set(broken):
        evidence = replace(evidence, transfer_seq=None)
    if evidence.kind is None:
        if evidence.actual_seq == 0:
            return []  # neither account nor changes
        orphan = "there are changes of an account that does not exist"
        return [_told(tenant, evidence, Fault.ORPHAN, orphan, seq=evidence.actual_seq)]
    return [
        *_explain_history(tenant, evidence),
        *_explain_numbers(tenant, evidence),
        *_explain_state(tenant, evidence),
    ]


def _explain_history(tenant: TenantId, evidence: Evidence) -> Iterator[Discrepancy]:
    for fault, seq in (
        (Fault.GAP, evidence.gap_seq),
        (Fault.STEP, evidence.step_seq),
        (Fault.CHAIN, evidence.chain_seq),
        (Fault.OPERATION, evidence.operation_seq),
        (Fault.LOST, evidence.lost_seq),
        (Fault.TRANSFER, evidence.transfer_seq),
    ):
        if seq is not None:
            sentence = _HISTORY_SENTENCES[fault].format(seq=seq)
            yield _told(tenant, evidence, fault, sentence, seq=seq)
    if evidence.seq > evidence.actual_seq:
        sentence = f"the account has made {evidence.seq} steps, but its changes end at {evidence.actual_seq}"
        is_number_alone = evidence.head == evidence.actual_head
        fault = Fault.SEQ if is_number_alone else Fault.TAIL
        yield _told(tenant, evidence, fault, sentence, seq=evidence.actual_seq)
    elif evidence.seq < evidence.actual_seq:
        sentence = f"the account has made {evidence.seq} steps, but its changes go on to {evidence.actual_seq}"
        yield _told(tenant, evidence, Fault.SEQ, sentence, seq=evidence.seq)
    elif evidence.head != evidence.actual_head:
        sentence = "the account's head is not the hash of its newest change"
        yield _told(tenant, evidence, Fault.HEAD, sentence, seq=evidence.seq)
    if evidence.checkpoint_problem in ("missing", "rewritten"):
        sentence = f"change {evidence.checkpoint_seq} is not the one that was proved earlier: the history was rewritten"
        yield _told(tenant, evidence, Fault.HISTORY, sentence, seq=evidence.checkpoint_seq)


def _explain_numbers(tenant: TenantId, evidence: Evidence) -> Iterator[Discrepancy]:
    for fault, stored, actual in (
        (Fault.BALANCE, evidence.posted, evidence.actual_posted),
        (Fault.HELD, evidence.held, evidence.actual_held),
        (Fault.TOTAL_RECHARGED, evidence.total_recharged, evidence.actual_recharged),
        (Fault.TOTAL_SPENT, evidence.total_spent, evidence.actual_spent),
    ):
        if stored != actual:
            yield Discrepancy(
                fault=fault,
                tenant=tenant,
                account=evidence.account,
                user=evidence.user,
                currency=evidence.currency,
                digits=evidence.digits,
                sentence=f"the stored {fault.replace('_', ' ')} differs from what the changes sum to",
                stored=stored,
                actual=actual,
            )


def _explain_state(tenant: TenantId, evidence: Evidence) -> Iterator[Discrepancy]:
    if evidence.hold_seq is not None:
        sentence = (
            f"hold {evidence.account}-{evidence.hold_seq} is not in the state its changes say"
        )
        yield _told(tenant, evidence, Fault.HOLD, sentence, seq=evidence.hold_seq)
    if evidence.checkpoint_problem == "damaged":
        sentence = "its checkpoint does not fit its own seal"
        yield _told(
            tenant, evidence, Fault.CHECKPOINT_DAMAGED, sentence, seq=evidence.checkpoint_seq
        )
    is_below = evidence.posted - evidence.held < evidence.floor
    is_suspended = evidence.suspended is not None
    may_be = evidence.kind == "held" and evidence.suspended != "chain_broken"
    if may_be and is_below != is_suspended:
        sentence = (
            "it lies below its floor and is not suspended"
            if is_below
            else "it is suspended for lying below its floor, but does not"
        )
        yield _told(tenant, evidence, Fault.SUSPENSION, sentence)


def _told(
    tenant: TenantId, evidence: Evidence, fault: Fault, sentence: str, *, seq: int | None = None
) -> Discrepancy:
    return Discrepancy(
        fault=fault,
        tenant=tenant,
        account=evidence.account,
        user=evidence.user,
        currency=evidence.currency,
        digits=evidence.digits,
        sentence=sentence,
        seq=seq,
    )


def largest_first(discrepancies: Iterable[Discrepancy]) -> list[Discrepancy]:
    """Return them with the largest difference first; a history in doubt goes before equal differences."""
    return sorted(
        discrepancies,
        key=lambda one: (
            -abs(one.difference),
            not one.fault.is_of_history,
            one.account or 0,
            one.fault,
        ),
    )
