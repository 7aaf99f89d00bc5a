"""Mistakes in SQL functions of a test's own database, by editing the text the server has of them."""

from tests.crash.planted_faults import Edit, SqlFault, plant

LEASE, FINISH = "lease_targets", "finish_targets"
_LEASED = "SET lease_until = p_now + p_lease, due_at = p_now + p_lease,"

SQL_FAULTS = {
    fault.name: fault
    for fault in (
        SqlFault(
            "forgets leases",
            "a target stays due while somebody has it",
            (Edit(LEASE, _LEASED, "SET lease_until = p_now + p_lease,"),),
            frozenset(),
        ),
        SqlFault(
            "leases for ever",
            "a lease never ends by itself",
            (Edit(LEASE, _LEASED, "SET lease_until = 'infinity', due_at = 'infinity',"),),
            frozenset(),
        ),
        SqlFault(
            "believes everybody",
            "whoever brings a result may write it, however old its lease",
            (
                Edit(FINISH, "AND g.token IN (t.lease_token, t.cancelled_token)", ""),
                Edit(FINISH, "AND NOT coalesce(t.lease_until <= p_now, true)", ""),
                Edit(FINISH, "t.lease_token = g.token AS is_newest", "true AS is_newest"),
            ),
            frozenset(),
        ),
        SqlFault(
            "tells no run",
            "a lease ends and its run is not told",
            (
                Edit(
                    FINISH,
                    "FROM owned o WHERE o.is_newest AND r.tenant_id",
                    "FROM owned o WHERE false AND r.tenant_id",
                ),
            ),
            frozenset(),
        ),
    )
}


async def plant_sql(admin_url: str, name: str) -> None:
    """Plant one of them, if there is one of this name."""
    if name in SQL_FAULTS:
        await plant(admin_url, SQL_FAULTS[name])
