"""Ways to falsify an account behind the product's back, each with what must become of it.

A corruption gets a superuser's connection without triggers, an account with a history of at least six
changes and a seeded `Random`. `HEALED`: afterwards everything is as before. `QUARANTINED`: the history
cannot be proved any more; the account is suspended and its stored numbers are left alone.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from random import Random

from steelyard.runtime.database import Connection

HASH = """steelyard.chain_hash($3, tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after,
    contra_id, contra_seq, target_seq, posted_at, details::text)"""


class Fate(StrEnum):
    HEALED = "healed"
    QUARANTINED = "quarantined"


Act = Callable[[Connection, int, Random], Awaitable[None]]


@dataclass(frozen=True)
class Corruption:
    name: str
    fate: Fate
    act: Act


CORRUPTIONS: list[Corruption] = []


def corruption(fate: Fate) -> Callable[[Act], Act]:
    """List the decorated function as a corruption with this fate."""

    def add(act: Act) -> Act:
        CORRUPTIONS.append(Corruption(act.__name__, fate, act))
        return act

    return add


async def newest(c: Connection, account: int) -> int:
    found: int = await c.fetchval("SELECT max(seq) FROM change WHERE account_id = $1", account)
    return found


async def middle(c: Connection, account: int, random: Random) -> int:
    """A change that is neither the first nor the newest."""
    return random.randrange(2, await newest(c, account))


async def hash_before(c: Connection, account: int, seq: int) -> bytes:
    if seq == 1:
        return bytes(32)
    found: bytes = await c.fetchval(
        "SELECT hash FROM change WHERE account_id = $1 AND seq = $2", account, seq - 1
    )
    return found


async def rehash(c: Connection, account: int, seq: int) -> None:
    """Give one change the hash its fields have."""
    before = await hash_before(c, account, seq)
    await c.execute(
        f"UPDATE change SET hash = {HASH}, previous_hash = $3 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
        before,
    )


async def rehash_from(c: Connection, account: int, seq: int) -> None:
    """Rebuild the chain from a change to the newest, and the account's head with it."""
    for one in range(seq, await newest(c, account) + 1):
        await rehash(c, account, one)
    await set_head(c, account)


async def set_head(c: Connection, account: int) -> None:
    """Make the account row what its newest change says."""
    await c.execute(
        "UPDATE account a SET head = c.hash, seq = c.seq, posted = c.balance_after, held = c.held_after FROM change c "
        "WHERE a.id = $1 AND c.account_id = a.id AND c.seq = (SELECT max(seq) FROM change WHERE account_id = $1)",
        account,
    )


async def append_change(c: Connection, account: int, amount: int) -> int:
    """Add a change that fits the newest one and the chain; the account row does not know of it."""
    seq = await newest(c, account) + 1
    await c.execute(
        "INSERT INTO change (tenant_id, account_id, seq, kind, amount, held_amount, balance_after, held_after, contra_id, "
        "posted_at, details, hash, previous_hash) SELECT tenant_id, account_id, seq + 1, 'recharge', $3, 0, balance_after + $3, held_after, "
        "(SELECT min(funding_id) FROM book), posted_at, NULL, '', '' FROM change WHERE account_id = $1 AND seq = $2 - 1",
        account,
        seq,
        amount,
    )
    await rehash(c, account, seq)
    return seq


# --- stored numbers ---------------------------------------------------------------------------


@corruption(Fate.HEALED)
async def posted_raised(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE account SET posted = posted + $2 WHERE id = $1", account, random.randint(1, 10**9)
    )


@corruption(Fate.HEALED)
async def posted_lowered_by_one(c: Connection, account: int, random: Random) -> None:
    await c.execute("UPDATE account SET posted = posted - 1 WHERE id = $1", account)


@corruption(Fate.HEALED)
async def posted_raised_where_a_folded_hash_would_not_see(
    c: Connection, account: int, random: Random
) -> None:
    # p and p' = (p ^ 2^32) ^ 1 have the same halves XORed.
    posted: int = await c.fetchval("SELECT posted FROM account WHERE id = $1", account)
    await c.execute("UPDATE account SET posted = $2 WHERE id = $1", account, posted ^ (1 << 32) ^ 1)


@corruption(Fate.HEALED)
async def posted_and_held_raised_alike(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE account SET posted = posted + 7, held = held + 7 WHERE id = $1", account
    )


@corruption(Fate.HEALED)
async def held_lowered(c: Connection, account: int, random: Random) -> None:
    await c.execute("UPDATE account SET held = held - 1 WHERE id = $1 AND held > 0", account)


@corruption(Fate.HEALED)
async def total_recharged_altered(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE account SET total_recharged = total_recharged - 5 WHERE id = $1", account
    )


@corruption(Fate.HEALED)
async def total_spent_altered(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE account SET total_spent = total_spent + $2 WHERE id = $1",
        account,
        random.randint(1, 99),
    )


@corruption(Fate.HEALED)
async def all_numbers_lost(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE account SET posted = 0, held = 0, total_recharged = 0, total_spent = 0 WHERE id = $1",
        account,
    )


@corruption(Fate.HEALED)
async def head_altered(c: Connection, account: int, random: Random) -> None:
    await c.execute("UPDATE account SET head = $2 WHERE id = $1", account, random.randbytes(32))


@corruption(Fate.HEALED)
async def seq_raised(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE account SET seq = seq + $2 WHERE id = $1", account, random.randint(1, 9)
    )


@corruption(Fate.HEALED)
async def account_set_back_to_an_earlier_change(
    c: Connection, account: int, random: Random
) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE account a SET posted = c.balance_after, held = c.held_after, seq = c.seq, head = c.hash FROM change c "
        "WHERE a.id = $1 AND c.account_id = a.id AND c.seq = $2",
        account,
        seq,
    )


@corruption(Fate.HEALED)
async def suspended_without_reason(c: Connection, account: int, random: Random) -> None:
    await c.execute("UPDATE account SET suspended = 'below_floor' WHERE id = $1", account)


# --- holds and checkpoints --------------------------------------------------------------------


@corruption(Fate.HEALED)
async def open_hold_closed(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE hold SET status = 'released' WHERE account_id = $1 AND status = 'open'", account
    )


@corruption(Fate.HEALED)
async def ended_hold_opened(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE hold SET status = 'open', captured = 0 WHERE account_id = $1 AND status <> 'open'",
        account,
    )


@corruption(Fate.HEALED)
async def hold_amount_altered(c: Connection, account: int, random: Random) -> None:
    await c.execute("UPDATE hold SET amount = amount + 1 WHERE account_id = $1", account)


@corruption(Fate.HEALED)
async def hold_removed(c: Connection, account: int, random: Random) -> None:
    await c.execute("DELETE FROM hold WHERE account_id = $1", account)


@corruption(Fate.HEALED)
async def hold_added(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "INSERT INTO hold (tenant_id, account_id, seq, amount) VALUES ('default', $1, 1, 50)",
        account,
    )


@corruption(Fate.HEALED)
async def checkpoint_altered(c: Connection, account: int, random: Random) -> None:
    await c.execute("UPDATE checkpoint SET posted = posted + 1 WHERE account_id = $1", account)


# --- one change altered, the chain left ---------------------------------------------------------


@corruption(Fate.HEALED)
async def amount_altered(c: Connection, account: int, random: Random) -> None:
    seq = random.randint(1, await newest(c, account))
    await c.execute(
        "UPDATE change SET amount = amount + 3 WHERE account_id = $1 AND seq = $2", account, seq
    )


@corruption(Fate.HEALED)
async def balance_after_altered(c: Connection, account: int, random: Random) -> None:
    seq = random.randint(1, await newest(c, account))
    await c.execute(
        "UPDATE change SET balance_after = balance_after - 3 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
    )


@corruption(Fate.HEALED)
async def amount_made_absurd(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE change SET amount = 9223372036854775807, balance_after = -9223372036854775808 "
        "WHERE account_id = $1 AND seq = $2",
        account,
        seq,
    )


@corruption(Fate.HEALED)
async def amount_and_balance_altered_alike(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE change SET amount = amount + 9, balance_after = balance_after + 9 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
    )


@corruption(Fate.HEALED)
async def held_after_altered(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE change SET held_after = held_after + 2 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
    )


@corruption(Fate.HEALED)
async def held_amount_altered(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE change SET held_amount = held_amount - 2 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
    )


@corruption(Fate.HEALED)
async def kind_altered(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE change SET kind = CASE kind WHEN 'charge' THEN 'booking' ELSE 'charge' END WHERE account_id = $1 AND seq = $2",
        account,
        seq,
    )


@corruption(Fate.HEALED)
async def target_altered(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE change SET target_seq = target_seq - 1 WHERE account_id = $1 AND seq = "
        "(SELECT min(seq) FROM change WHERE account_id = $1 AND target_seq IS NOT NULL)",
        account,
    )


@corruption(Fate.HEALED)
async def other_account_altered(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE change SET contra_id = coalesce(contra_id, 0) + 1 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
    )


@corruption(Fate.HEALED)
async def two_amounts_that_cancel_out(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE change SET amount = amount + 100 WHERE account_id = $1 AND seq = 2", account
    )
    await c.execute(
        "UPDATE change SET amount = amount - 100 WHERE account_id = $1 AND seq = 4", account
    )


@corruption(Fate.HEALED)
async def hash_before_altered(c: Connection, account: int, random: Random) -> None:
    seq = random.randint(1, await newest(c, account))
    await c.execute(
        "UPDATE change SET previous_hash = $3 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
        random.randbytes(32),
    )


@corruption(Fate.HEALED)
async def two_hashes_before_exchanged(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE change c SET previous_hash = o.previous_hash FROM change o "
        "WHERE c.account_id = $1 AND c.seq IN (2, 4) AND o.account_id = $1 AND o.seq = 6 - c.seq",
        account,
    )


@corruption(Fate.QUARANTINED)
async def one_change_forged_to_prove_itself(c: Connection, account: int, random: Random) -> None:
    """Its hash fits its row; only that the next change carries another one gives it away."""
    seq = await middle(c, account, random)
    await c.execute(
        """UPDATE change SET details = '{"description":"forged"}' WHERE account_id = $1 AND seq = $2""",
        account,
        seq,
    )
    await rehash(c, account, seq)


@corruption(Fate.QUARANTINED)
async def chain_broken_between_two_that_prove_themselves(
    c: Connection, account: int, random: Random
) -> None:
    """From here on a chain of its own: every row fits its hash, and the head the newest change."""
    seq = await middle(c, account, random)
    await c.execute(
        f"UPDATE change SET previous_hash = $3, hash = {HASH} WHERE account_id = $1 AND seq = $2",
        account,
        seq,
        random.randbytes(32),
    )
    await rehash_from(c, account, seq + 1)


@corruption(Fate.QUARANTINED)
async def two_amounts_that_cancel_out_with_balances_between(
    c: Connection, account: int, random: Random
) -> None:
    await c.execute(
        "UPDATE change SET amount = amount + 100 WHERE account_id = $1 AND seq = 2", account
    )
    await c.execute(
        "UPDATE change SET balance_after = balance_after + 100 WHERE account_id = $1 AND seq IN (2, 3, 4)",
        account,
    )
    await c.execute(
        "UPDATE change SET amount = amount - 100 WHERE account_id = $1 AND seq = 5", account
    )


@corruption(Fate.QUARANTINED)
async def details_altered(c: Connection, account: int, random: Random) -> None:
    seq = await c.fetchval(
        "SELECT min(seq) FROM change WHERE account_id = $1 AND details IS NOT NULL", account
    )
    await c.execute(
        """UPDATE change SET details = '{"description":"forged"}' WHERE account_id = $1 AND seq = $2""",
        account,
        seq,
    )


@corruption(Fate.QUARANTINED)
async def moment_moved_to_no_moment(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        """UPDATE change SET posted_at = 'infinity', details = '{}' WHERE account_id = $1 AND details IS NOT NULL""",
        account,
    )


# --- changes removed and added ------------------------------------------------------------------


@corruption(Fate.QUARANTINED)
async def first_change_removed(c: Connection, account: int, random: Random) -> None:
    await c.execute("DELETE FROM change WHERE account_id = $1 AND seq = 1", account)


@corruption(Fate.QUARANTINED)
async def middle_change_removed(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute("DELETE FROM change WHERE account_id = $1 AND seq = $2", account, seq)


@corruption(Fate.QUARANTINED)
async def middle_change_removed_and_the_rest_renumbered(
    c: Connection, account: int, random: Random
) -> None:
    seq = await middle(c, account, random)
    await c.execute("DELETE FROM change WHERE account_id = $1 AND seq = $2", account, seq)
    for one in range(seq + 1, await newest(c, account) + 1):
        await c.execute(
            "UPDATE change SET seq = seq - 1 WHERE account_id = $1 AND seq = $2", account, one
        )
    await rehash_from(c, account, seq)


@corruption(Fate.QUARANTINED)
async def newest_change_removed(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "DELETE FROM change WHERE account_id = $1 AND seq = $2", account, await newest(c, account)
    )


@corruption(Fate.QUARANTINED)
async def newest_change_removed_and_account_set_back(
    c: Connection, account: int, random: Random
) -> None:
    await newest_change_removed(c, account, random)
    await set_head(c, account)


@corruption(Fate.QUARANTINED)
async def all_changes_removed(c: Connection, account: int, random: Random) -> None:
    await c.execute("DELETE FROM change WHERE account_id = $1", account)


@corruption(Fate.QUARANTINED)
async def change_added_that_fits_the_chain(c: Connection, account: int, random: Random) -> None:
    await append_change(c, account, random.randint(1, 10_000))


@corruption(Fate.QUARANTINED)
async def change_added_and_account_moved_on(c: Connection, account: int, random: Random) -> None:
    amount = random.randint(1, 10_000)
    await append_change(c, account, amount)
    await set_head(c, account)
    await c.execute(
        "UPDATE account SET total_recharged = total_recharged + $2 WHERE id = $1", account, amount
    )


@corruption(Fate.QUARANTINED)
async def change_added_far_away(c: Connection, account: int, random: Random) -> None:
    seq = await append_change(c, account, 5)
    await c.execute(
        "UPDATE change SET seq = 9223372036854775807 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
    )


# --- the chain itself ---------------------------------------------------------------------------


@corruption(Fate.QUARANTINED)
async def hash_altered(c: Connection, account: int, random: Random) -> None:
    seq = random.randint(1, await newest(c, account))
    await c.execute(
        "UPDATE change SET hash = $3 WHERE account_id = $1 AND seq = $2",
        account,
        seq,
        random.randbytes(32),
    )


@corruption(Fate.QUARANTINED)
async def middle_change_altered_with_its_hash(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE change SET amount = amount + 1 WHERE account_id = $1 AND seq = $2", account, seq
    )
    await rehash(c, account, seq)


@corruption(Fate.QUARANTINED)
async def amount_altered_and_chain_rebuilt(c: Connection, account: int, random: Random) -> None:
    seq = await middle(c, account, random)
    await c.execute(
        "UPDATE change SET amount = amount + 1 WHERE account_id = $1 AND seq = $2", account, seq
    )
    await rehash_from(c, account, seq)


@corruption(Fate.QUARANTINED)
async def history_rewritten_without_a_seam(c: Connection, account: int, random: Random) -> None:
    """Two charges altered so that they cancel out, all balances between, all hashes, and the head."""
    await c.execute(
        "UPDATE change SET amount = amount + 100 WHERE account_id = $1 AND seq = 2", account
    )
    await c.execute(
        "UPDATE change SET balance_after = balance_after + 100 WHERE account_id = $1 AND seq IN (2, 3)",
        account,
    )
    await c.execute(
        "UPDATE change SET amount = amount - 100 WHERE account_id = $1 AND seq = 4", account
    )
    await rehash_from(c, account, 2)


# --- requests -----------------------------------------------------------------------------------


@corruption(Fate.QUARANTINED)
async def request_removed(c: Connection, account: int, random: Random) -> None:
    await c.execute("DELETE FROM operation WHERE account_id = $1 AND seq = 2", account)


@corruption(Fate.QUARANTINED)
async def request_points_to_a_missing_change(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "UPDATE operation SET seq = seq + 1000 WHERE account_id = $1 AND seq = 2", account
    )


@corruption(Fate.QUARANTINED)
async def two_more_requests_for_one_change(c: Connection, account: int, random: Random) -> None:
    await c.execute(
        "INSERT INTO operation SELECT tenant_id, 'forged-' || n || '-' || key, body_hash, account_id, seq "
        "FROM operation, generate_series(1, 2) n WHERE account_id = $1 AND seq = 2",
        account,
    )
