"""Faults planted in the SQL functions of one test's own database, by editing the text the server has of them.

Each edit must fit exactly once: when a function changes so that an edit fits no more, the test says so instead of
running unharmed.
"""

from dataclasses import dataclass

from steelyard.runtime.database import connect
from tests.crash.laws import Law

POST_BATCH = "post_batch"


@dataclass(frozen=True, slots=True)
class Edit:
    """One replacement in the text of one function."""

    function: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class SqlFault:
    """A fault in SQL: what it is, how it is made, and the laws of which at least one must be seen broken."""

    name: str
    what: str
    edits: tuple[Edit, ...]
    breaks: frozenset[Law]


class EditDoesNotFit(Exception):
    """The text to replace is not in the function exactly once."""

    def __init__(self, edit: Edit, times: int) -> None:
        super().__init__(f"{edit.function}: found {times} times, not once: {edit.before!r}")


_INSERT_KEY = Edit(
    POST_BATCH,
    "WHERE u.outcome = 'posted' ORDER BY u.tenant, u.key;",
    "WHERE u.outcome = 'posted' ORDER BY u.tenant, u.key ON CONFLICT DO NOTHING;",
)
_LOCK = Edit(POST_BATCH, "ORDER BY acc.id FOR NO KEY UPDATE OF acc) l;", "ORDER BY acc.id) l;")
_FUNDS = "v_available := v_posted[a] + d_posted - v_held[a] - d_held;"

SQL_FAULTS = (
    SqlFault(
        "key lookup skipped",
        "keys used before are not looked up",
        (
            Edit(
                POST_BATCH,
                "ON (o.tenant_id, o.key) = (u.tenant, u.key)) THEN",
                "ON (o.tenant_id, o.key) = (u.tenant, u.key) AND false) THEN",
            ),
            _INSERT_KEY,
        ),
        frozenset({Law.ACKNOWLEDGED}),
    ),
    SqlFault(
        "same key in one batch",
        "a key that stands twice in one batch is two orders",
        (
            Edit(
                POST_BATCH,
                "IF v_first IS NOT NULL AND v_accepted[v_first[i]] > 0 THEN",
                "IF false THEN",
            ),
            _INSERT_KEY,
        ),
        frozenset({Law.ACKNOWLEDGED, Law.KNOWN}),
    ),
    SqlFault(
        "body hash ignored",
        "a key used for another order is answered as a replay",
        (Edit(POST_BATCH, "IF v_found.body_hash <> p_body_hash[i] THEN", "IF false THEN"),),
        frozenset({Law.KEYS}),
    ),
    SqlFault(
        "funds check skipped",
        "a charge may take more than there is",
        (Edit(POST_BATCH, "AND v_available < r_floor[a] THEN", "AND false THEN"),),
        frozenset({Law.FLOOR}),
    ),
    SqlFault(
        "hold not counted",
        "money that is held can be spent",
        (Edit(POST_BATCH, _FUNDS, "v_available := v_posted[a] + d_posted - d_held;"),),
        frozenset({Law.FLOOR}),
    ),
    SqlFault(
        "hold counted twice",
        "money that is there is refused",
        (Edit(POST_BATCH, _FUNDS, _FUNDS.replace("- v_held[a]", "- 2 * v_held[a]")),),
        frozenset({Law.REASONS}),
    ),
    SqlFault(
        "lock clause removed",
        "two processes decide on one account at once, and the second writer's steps are dropped",
        (
            _LOCK,
            Edit(
                POST_BATCH,
                "AS u (tenant, id, seq, delta, posted, count, head, previous);",
                "AS u (tenant, id, seq, delta, posted, count, head, previous) ON CONFLICT DO NOTHING;",
            ),
        ),
        frozenset({Law.ACKNOWLEDGED, Law.STANDING}),
    ),
    SqlFault(
        "contra skipped",
        "the books' side of a batch is not posted",
        (
            Edit(
                POST_BATCH,
                "WHERE u.delta <> 0 ORDER BY acc.id FOR NO KEY UPDATE OF acc) m;",
                "WHERE false FOR NO KEY UPDATE OF acc) m;",
            ),
        ),
        frozenset({Law.BOOKS}),
    ),
    SqlFault(
        "reversal sum ignored",
        "a transaction can be reversed again and again",
        (
            Edit(
                "find_reversible",
                "abs(r_amount) - coalesce(sum(abs(c.amount)), 0)",
                "abs(r_amount) - 0 * coalesce(sum(abs(c.amount)), 0)",
            ),
        ),
        frozenset({Law.REVERSALS}),
    ),
    SqlFault(
        "hold ends twice",
        "a hold that was captured or released can be ended again",
        (Edit(POST_BATCH, "ELSIF v_found.status <> 'open' THEN", "ELSIF false THEN"),),
        frozenset({Law.HOLDS}),
    ),
    SqlFault(
        "refused but written",
        "one charge in ten is refused after it was posted",
        (
            Edit(
                POST_BATCH,
                "WHERE acc.tenant_id = u.tenant AND acc.id = u.id AND acc.seq <> u.seq;\nEND",
                "WHERE acc.tenant_id = u.tenant AND acc.id = u.id AND acc.seq <> u.seq;\n"
                "    FOR i IN 1..n LOOP\n"
                "        IF p_kind[i] = 'charge' AND r_outcome[i] = 'posted' AND p_amount[i] % 10 = 0 THEN\n"
                "            r_outcome[i] := 'insufficient_funds';\n"
                "        END IF;\n"
                "    END LOOP;\nEND",
            ),
        ),
        frozenset({Law.REFUSED}),
    ),
    SqlFault(
        "balance left behind",
        "one step in seven is not carried into the account's row",
        (
            Edit(
                POST_BATCH,
                "SET posted = u.posted, held = u.held, seq = u.seq, head = u.head,",
                "SET posted = CASE WHEN u.seq % 7 = 0 THEN acc.posted ELSE u.posted END, held = u.held, "
                "seq = u.seq, head = u.head,",
            ),
        ),
        frozenset({Law.STEPS, Law.STANDING}),
    ),
    SqlFault(
        "another time hashed than stored",
        "a change's hash covers a time that the change does not have",
        (
            Edit(
                POST_BATCH,
                "u.contra, u.contra_seq, u.target, p_now, u.details::json, u.hash",
                "u.contra, u.contra_seq, u.target, p_now + interval '1 microsecond', u.details::json, u.hash",
            ),
        ),
        frozenset({Law.CHAIN}),
    ),
    SqlFault(
        "torn reads",
        "a read shows a balance that the account never had",
        (Edit("read_balances", "acc.posted, acc.held,", "acc.posted - acc.held, acc.held,"),),
        frozenset({Law.READS}),
    ),
)


async def plant(admin_url: str, fault: SqlFault) -> None:
    """Replace functions of one database by broken ones.

    Raises:
        EditDoesNotFit: A function's text is not the one the fault was written for.
    """
    connection = await connect(admin_url)
    try:
        for edit in fault.edits:
            text: str = await connection.fetchval(
                "SELECT pg_get_functiondef(p.oid) FROM pg_proc p "
                "WHERE p.pronamespace = 'steelyard'::regnamespace AND p.proname = $1",
                edit.function,
            )
            times = text.count(edit.before)
            if times != 1:
                raise EditDoesNotFit(edit, times)
            await connection.execute(text.replace(edit.before, edit.after))
    finally:
        await connection.close(timeout=5)
