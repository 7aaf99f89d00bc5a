"""Passes over all of a tenant's changes: they name suspects, `examine` then says what is wrong.

**Arithmetic without sorting and without groups.** Each change must begin where the one before it ended.
Instead of putting the changes in order, each adds `H(account, seq - 1, balance before)` and
`H(account, seq, balance after)` to one sum without order (XOR) over the whole tenant, with `H` a 64-bit hash
keyed by a fresh secret. If every `seq` runs 1..n without a gap and every step fits, all terms cancel but the
first and the last of each account, which the account rows must explain. Holds and the two sides of transfers
are compared by the same means, and so are requests. Totals are added up with a secret weight of 31 bits for
each account. What is wrong is missed with a chance of 2^-64, in a total of 2^-31, anew at each run. Only if
the sums differ a second pass keeps them apart account by account and names the suspects; what is suspected
is examined exactly.

**Chain.** A change carries the hash of the change before it, so its own hash is computed from the row alone. That
it is really the hash of the change before it is compared like balances are: `H(account, seq - 1, previous hash)` and
`H(account, seq, hash)` in one sum, which the accounts' heads must explain. So all of a tenant's changes are proved in
one scan, numbers and chain together, on all processor cores. Only if that fails a join names the accounts.
"""

import secrets

from steelyard.core.ids import AccountId, TenantId
from steelyard.reconcile.store.snapshot import SCAN_DEADLINE_S
from steelyard.runtime.database import UnitOfWork

# In all of these: $1 tenant, $2 secret, $3 and $4 the accounts that stand for funding and revenue in the tenant's
# books, c a change. A number beyond 2^62 is no balance, and its change has a hash of its own that fits nothing. A
# held amount of 0 adds nothing. hashint8extended folds its argument to 32 bits, hence the upper half in its seed.
_IN_RANGE = "BETWEEN -4611686018427387904 AND 4611686018427387903"
_FITS_NOTHING = """hashint8extended(c.seq, hashint8extended(c.seq >> 32,
                                 hashint8extended(c.account_id, hashint8extended(c.account_id >> 32, $2::bigint))))"""
_HOLD_STEP = """CASE WHEN c.held_amount = 0 THEN 0
                                      WHEN c.kind = 'hold'
                                      THEN hashtextextended(concat_ws('|', 'open', c.seq, c.held_amount, 0), {key})
                                      ELSE hashtextextended(concat_ws('|', steelyard.hold_status(c.kind), c.target_seq,
                                               -c.held_amount, CASE c.kind WHEN 'capture' THEN -c.amount::numeric ELSE 0 END),
                                               {key}) END"""
_HOLD_KEPT = """hashtextextended(concat_ws('|', 'open', h.seq, h.amount, 0), {key})
                     # CASE h.status WHEN 'open' THEN 0 ELSE hashtextextended(
                           concat_ws('|', h.status, h.seq, h.amount, h.captured), {key}) END"""
_TRANSFERS = """bit_xor(CASE WHEN c.contra_seq IS NOT NULL THEN hashtextextended(CASE WHEN c.amount < 0
                   THEN concat_ws('|', c.account_id, c.seq, c.contra_id, c.contra_seq, c.kind, c.amount)
                   ELSE concat_ws('|', c.contra_id, c.contra_seq, c.account_id, c.seq, c.kind, -c.amount) END,
                   $2::bigint) END)"""
_ODDLY_SUSPENDED = """a.kind = 'held' AND a.suspended IS DISTINCT FROM 'chain_broken'
               AND (a.posted - a.held < a.floor) <> (a.suspended IS NOT NULL)"""


def _key(account: str) -> str:
    """Return SQL for the secret of one account. Only for ids from 0 to 2^32 - 1 is it a secret of its own."""
    return f"hashint8extended({account}, $2::bigint)"


def _standing(account: str, seq: str, number: str, mask: str = "$2::bigint") -> str:
    """Return SQL for `H`: the account stands at `number` after change `seq`, which is below 2^32."""
    return f"hashint8extended({number}, hashint8extended({account}, {mask}) # {seq} # (({number} >> 32) << 32))"


def _link(account: str, seq: str, hash_there: str) -> str:
    """Return SQL for `H`: the chain of the account has `hash_there` at `seq`, below 2^32 both."""
    return f"hash_array_extended(ARRAY[{hash_there}], $2::bigint # {seq} # ({account} << 32))"


def _hash_of(previous: str) -> str:
    """Return SQL for the hash that a change has after `previous`."""
    return f"""steelyard.chain_hash({previous}, c.tenant_id, c.account_id, c.seq, c.kind, c.amount, c.held_amount,
                   c.balance_after, c.held_after, c.contra_id, c.contra_seq, c.target_seq, c.posted_at, c.details::text)"""


_SINGLE = "(c.seq | c.account_id) >> 32 = 0"
_FUNDED, _SPENT = (
    f"({_key('c.account_id')} & 2147483647)",
    f"(({_key('c.account_id')} >> 32) & 2147483647)",
)

_PROOF = f"""
    WITH changes AS (
        SELECT bit_xor(CASE WHEN c.balance_after {_IN_RANGE} AND c.amount {_IN_RANGE} AND {_SINGLE}
                            THEN {_standing("c.account_id", "(c.seq - 1)", "(c.balance_after - c.amount)")}
                               # {_standing("c.account_id", "c.seq", "c.balance_after")}
                            ELSE {_FITS_NOTHING} END) AS steps,
               bit_xor(CASE WHEN c.held_amount = 0 AND c.held_after = 0 THEN 0
                            WHEN c.held_after {_IN_RANGE} AND c.held_amount {_IN_RANGE} AND {_SINGLE}
                            THEN CASE WHEN c.held_after = c.held_amount THEN 0
                                      ELSE {_standing("c.account_id", "(c.seq - 1)", "(c.held_after - c.held_amount)", "~$2::bigint")} END
                               # CASE WHEN c.held_after = 0 THEN 0
                                      ELSE {_standing("c.account_id", "c.seq", "c.held_after", "~$2::bigint")} END
                               # {_HOLD_STEP.format(key=_key("c.account_id"))}
                            ELSE hashint8extended(1, {_FITS_NOTHING}) END) AS holds,
               sum(CASE WHEN c.contra_id = ANY ($4::bigint[]) THEN c.amount * {_SPENT}
                        WHEN c.contra_id = ANY ($3::bigint[]) THEN c.amount * {_FUNDED} END)
                   FILTER (WHERE c.amount BETWEEN -4294967296 AND 4294967296) AS totals,
               sum(CASE WHEN c.contra_id = ANY ($4::bigint[]) THEN c.amount * {_SPENT}::numeric
                        WHEN c.contra_id = ANY ($3::bigint[]) THEN c.amount * {_FUNDED}::numeric END)
                   FILTER (WHERE c.amount NOT BETWEEN -4294967296 AND 4294967296) AS large_totals,
               {_TRANSFERS} AS transfers{{chain_of_changes}}
          FROM steelyard.change c WHERE c.tenant_id = $1),
    kept AS (
        SELECT bit_xor({_HOLD_KEPT.format(key=_key("h.account_id"))}) AS holds,
               count(*) FILTER (WHERE h.status = 'open' AND h.captured <> 0
                                   OR h.account_id NOT BETWEEN 0 AND 4294967295) AS odd
          FROM steelyard.hold h WHERE h.tenant_id = $1),
    standing AS (
        SELECT bit_xor({_standing("a.id", "0", "0::bigint")} # {_standing("a.id", "a.seq", "a.posted")}) AS steps,
               bit_xor(CASE a.held WHEN 0 THEN 0 ELSE {_standing("a.id", "a.seq", "a.held", "~$2::bigint")} END) AS holds,
               sum(a.total_recharged * ({_key("a.id")} & 2147483647)::numeric
                   - a.total_spent * (({_key("a.id")} >> 32) & 2147483647)::numeric) AS totals,
               count(*) FILTER (WHERE a.seq NOT BETWEEN 0 AND 4294967295 OR a.id NOT BETWEEN 0 AND 4294967295
                                   OR {_ODDLY_SUSPENDED}) AS odd{{chain_of_accounts}}
          FROM steelyard.account a WHERE a.tenant_id = $1)
    SELECT coalesce(c.transfers, 0) = 0 AND k.odd + s.odd = 0
           AND (coalesce(c.steps, 0), coalesce(c.holds, 0) # coalesce(k.holds, 0))
               = (coalesce(s.steps, 0), coalesce(s.holds, 0))
           AND coalesce(c.totals, 0) + coalesce(c.large_totals, 0) = coalesce(s.totals, 0){{chain_proved}}
      FROM changes c, kept k, standing s
"""

PROVE_ARITHMETIC = _PROOF.format(chain_of_changes="", chain_of_accounts="", chain_proved="")

# The same scan with every hash computed. $5: what stands for the hash before an account's first change.
PROVE_CHAIN = _PROOF.format(
    chain_of_changes=f""",
               bit_xor(CASE WHEN {_SINGLE} THEN {_link("c.account_id", "(c.seq - 1)", "c.previous_hash")}
                               # {_link("c.account_id", "c.seq", "c.hash")}
                            ELSE {_FITS_NOTHING} END) AS links,
               count(*) FILTER (WHERE c.hash IS DISTINCT FROM {_hash_of("c.previous_hash")}) AS unfit""",
    chain_of_accounts=f""",
               bit_xor({_link("a.id", "0", "$5::bytea")} # {_link("a.id", "a.seq", "a.head")}) AS links""",
    chain_proved=" AND c.unfit = 0 AND coalesce(c.links, 0) = coalesce(s.links, 0)",
)

# The same account by account, the account being no part of `H` then.
_DERIVED = f"""
    WITH derived AS (
        SELECT c.account_id,
               bit_xor(CASE WHEN c.balance_after {_IN_RANGE}
                             AND c.amount {_IN_RANGE}
                            THEN hashint8extended(c.balance_after - c.amount,
                                                  hashint8extended((c.balance_after - c.amount) >> 32, (c.seq - 1) # $2::bigint))
                               # hashint8extended(c.balance_after, hashint8extended(c.balance_after >> 32, c.seq # $2::bigint))
                            ELSE {_FITS_NOTHING} END
                     # CASE WHEN c.held_amount = 0 AND c.held_after = 0 THEN 0
                            WHEN c.held_after {_IN_RANGE}
                             AND c.held_amount {_IN_RANGE}
                            THEN CASE WHEN c.held_after = c.held_amount THEN 0
                                      ELSE hashint8extended(c.held_after - c.held_amount,
                                               hashint8extended((c.held_after - c.held_amount) >> 32, (c.seq - 1) # ~$2::bigint)) END
                               # CASE WHEN c.held_after = 0 THEN 0
                                      ELSE hashint8extended(c.held_after, hashint8extended(c.held_after >> 32, c.seq # ~$2::bigint)) END
                               # {_HOLD_STEP.format(key="$2::bigint")}
                            ELSE hashint8extended(1, {_FITS_NOTHING}) END) AS fingerprint,
               sum(c.amount) FILTER (WHERE c.contra_id = ANY ($3::bigint[])) AS recharged,
               sum(c.amount) FILTER (WHERE c.contra_id = ANY ($4::bigint[])) AS spent,
               {_TRANSFERS} AS transfers
          FROM steelyard.change c WHERE c.tenant_id = $1 GROUP BY c.account_id),
    kept AS (
        SELECT h.account_id,
               bit_xor({_HOLD_KEPT.format(key="$2::bigint")}) AS fingerprint,
               sum(h.captured) FILTER (WHERE h.status = 'open') AS captured_open
          FROM steelyard.hold h WHERE h.tenant_id = $1 GROUP BY h.account_id),
    standing AS (
        SELECT a.id, a.user_id, a.total_recharged, a.total_spent, hashint8extended(0, hashint8extended(0, $2::bigint))
               # hashint8extended(a.posted, hashint8extended(a.posted >> 32, a.seq # $2::bigint))
               # CASE a.held WHEN 0 THEN 0
                      ELSE hashint8extended(a.held, hashint8extended(a.held >> 32, a.seq # ~$2::bigint)) END AS fingerprint,
               {_ODDLY_SUSPENDED} AS is_oddly_suspended
          FROM steelyard.account a WHERE a.tenant_id = $1)
"""

SCREEN_ARITHMETIC = (
    _DERIVED
    + """
    SELECT coalesce(s.id, d.account_id, k.account_id) AS account_id, NULL::bigint AS transfers
      FROM standing s
      FULL JOIN derived d ON d.account_id = s.id
      FULL JOIN kept k ON k.account_id = coalesce(s.id, d.account_id)
     WHERE s.id IS NULL OR s.is_oddly_suspended OR coalesce(k.captured_open, 0) <> 0
        OR s.fingerprint <> coalesce(d.fingerprint, 0) # coalesce(k.fingerprint, 0)
        OR s.total_recharged <> coalesce(d.recharged, 0) OR s.total_spent <> -coalesce(d.spent, 0)
    UNION ALL
    SELECT NULL, bit_xor(d.transfers) FROM derived d
"""
)


def _place(account: str, seq: str) -> str:
    """Return SQL for a hash of an account and a `seq`, of any size both."""
    key = f"hashint8extended({account}, $2::bigint # (({account} >> 32) << 32))"
    return f"hashint8extended({seq}, {key} # (({seq} >> 32) << 32))"


# Requests against changes, by the same means; counted too, since a request named twice would cancel itself.
PROVE_REQUESTS = f"""
    WITH answered AS (
        SELECT coalesce(bit_xor({_place("c.account_id", "c.seq")}), 0) AS fingerprint, count(*) AS times
          FROM steelyard.change c
         WHERE c.tenant_id = $1 AND steelyard.has_operation(c.kind, c.amount, c.target_seq, c.contra_seq)),
    asked AS (
        SELECT coalesce(bit_xor({_place("o.account_id", "o.seq")}), 0) AS fingerprint, count(*) AS times
          FROM steelyard.operation o WHERE o.tenant_id = $1)
    SELECT (w.fingerprint, w.times) = (k.fingerprint, k.times) FROM answered w, asked k
"""

SCREEN_REQUESTS = """
    WITH answered AS (
        SELECT c.account_id, bit_xor(hashint8extended(c.seq, $2::bigint)) AS fingerprint, count(*) AS times
          FROM steelyard.change c
         WHERE c.tenant_id = $1 AND steelyard.has_operation(c.kind, c.amount, c.target_seq, c.contra_seq)
         GROUP BY c.account_id),
    asked AS (
        SELECT o.account_id, bit_xor(hashint8extended(o.seq, $2::bigint)) AS fingerprint, count(*) AS times
          FROM steelyard.operation o WHERE o.tenant_id = $1 GROUP BY o.account_id)
    SELECT coalesce(w.account_id, k.account_id) AS account_id
      FROM answered w FULL JOIN asked k ON k.account_id = w.account_id
     WHERE (w.fingerprint, w.times) IS DISTINCT FROM (k.fingerprint, k.times)
"""

SCREEN_CHAIN = f"""
    SELECT DISTINCT c.account_id
      FROM steelyard.change c
      LEFT JOIN steelyard.change p ON p.tenant_id = $1 AND p.account_id = c.account_id AND p.seq = c.seq - 1
     WHERE c.tenant_id = $1
       AND ((p.seq IS NULL) <> (c.seq = 1) OR c.previous_hash IS DISTINCT FROM coalesce(p.hash, $2::bytea)
            OR c.hash IS DISTINCT FROM {_hash_of("c.previous_hash")})
"""

# Heads that are not their newest change's hash.
SCREEN_HEADS = """
    SELECT a.id AS account_id FROM steelyard.account a
      LEFT JOIN steelyard.change c ON c.tenant_id = $1 AND c.account_id = a.id AND c.seq = a.seq
     WHERE a.tenant_id = $1 AND a.head IS DISTINCT FROM CASE a.seq WHEN 0 THEN $2::bytea ELSE c.hash END
"""

# Checkpoints that are not the change they name.
SCREEN_CHECKPOINTS = """
    SELECT k.account_id FROM steelyard.checkpoint k
      LEFT JOIN steelyard.change c ON c.tenant_id = $1 AND c.account_id = k.account_id AND c.seq = k.seq
     WHERE k.tenant_id = $1
       AND ((c.hash, c.balance_after, c.held_after) IS DISTINCT FROM (k.hash, k.posted, k.held)
            OR k.seal IS DISTINCT FROM steelyard.seal_checkpoint(k.tenant_id, k.account_id, k.seq, k.posted, k.held,
                                                                 k.total_recharged, k.total_spent, k.hash))
"""

UNMATCHED_TRANSFERS = """
    SELECT unnest(ARRAY[c.account_id, c.contra_id]) AS account_id FROM steelyard.change c
      LEFT JOIN steelyard.change o ON o.tenant_id = $1 AND o.account_id = c.contra_id AND o.seq = c.contra_seq
     WHERE c.tenant_id = $1 AND c.contra_seq IS NOT NULL
       AND (o.contra_id, o.contra_seq, o.kind, o.posted_at, -o.amount::numeric)
           IS DISTINCT FROM (c.account_id, c.seq, c.kind, c.posted_at, c.amount::numeric)
"""

ZERO_HASH = bytes(32)
_Arguments = tuple[TenantId, int, list[int], list[int]]


async def screen_arithmetic(uow: UnitOfWork) -> set[AccountId]:
    """Return the accounts whose steps, numbers, totals, holds or transfers may be wrong.

    One pass if nothing is wrong; up to three otherwise.
    """
    arguments = await _arguments(uow)
    if await _is_proved(uow, PROVE_ARITHMETIC, *arguments):
        return set()
    return await _suspect_arithmetic(uow, arguments)


async def screen_chain(uow: UnitOfWork) -> set[AccountId]:
    """Return the accounts of `screen_arithmetic` and those whose chain or head may be broken, every hash computed.

    One pass for all of it if nothing is wrong.
    """
    arguments = await _arguments(uow)
    if await _is_proved(uow, PROVE_CHAIN, *arguments, ZERO_HASH):
        return set()
    return (
        await _suspect_arithmetic(uow, arguments)
        | await _suspects(uow, SCREEN_CHAIN, ZERO_HASH)
        | await screen_heads(uow)
    )


async def _arguments(uow: UnitOfWork) -> _Arguments:
    """Return tenant, a fresh secret, and the accounts of the tenant's books for funding and for revenue."""
    books = await uow.fetchrow(
        """
        SELECT coalesce(array_agg(funding_id), '{}') AS funding, coalesce(array_agg(revenue_id), '{}') AS revenue
          FROM steelyard.book WHERE tenant_id = $1
        """,
        uow.tenant,
    )
    assert books is not None
    return (uow.tenant, secrets.randbits(62), books["funding"], books["revenue"])


async def _suspect_arithmetic(uow: UnitOfWork, arguments: _Arguments) -> set[AccountId]:
    rows = await uow.connection.fetch(SCREEN_ARITHMETIC, *arguments, timeout=SCAN_DEADLINE_S)
    suspects = {AccountId(row["account_id"]) for row in rows if row["account_id"] is not None}
    if any(row["transfers"] for row in rows):
        unmatched = await uow.connection.fetch(
            UNMATCHED_TRANSFERS, uow.tenant, timeout=SCAN_DEADLINE_S
        )
        suspects.update(AccountId(row["account_id"]) for row in unmatched if row["account_id"])
    return suspects


async def screen_requests(uow: UnitOfWork) -> set[AccountId]:
    """Return the accounts whose changes and requests may disagree.

    One pass over changes and keys if none do; two otherwise.
    """
    arguments = (uow.tenant, secrets.randbits(62))
    if await _is_proved(uow, PROVE_REQUESTS, *arguments):
        return set()
    return await _suspects(uow, SCREEN_REQUESTS, arguments[1])


async def screen_heads(uow: UnitOfWork) -> set[AccountId]:
    """Return the accounts whose head is not the hash of their newest change."""
    return await _suspects(uow, SCREEN_HEADS, ZERO_HASH)


async def screen_checkpoints(uow: UnitOfWork) -> set[AccountId]:
    """Return the accounts whose checkpoint is not the change it names."""
    return await _suspects(uow, SCREEN_CHECKPOINTS)


async def _is_proved(uow: UnitOfWork, sql: str, *arguments: object) -> bool:
    """Run a statement that answers one boolean. All rows are asked for: a limit of one would forbid parallel scans."""
    [row] = await uow.connection.fetch(sql, *arguments, timeout=SCAN_DEADLINE_S)
    return bool(row[0])


async def _suspects(uow: UnitOfWork, sql: str, *arguments: object) -> set[AccountId]:
    rows = await uow.connection.fetch(sql, uow.tenant, *arguments, timeout=SCAN_DEADLINE_S)
    return {AccountId(row["account_id"]) for row in rows}
