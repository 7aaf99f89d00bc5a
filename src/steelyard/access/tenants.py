"""Tenants: made and listed by the operator of the installation, read by their own callers."""

from datetime import datetime

from steelyard.access import store
from steelyard.access.model import Tenant, TenantStatus
from steelyard.access.names import check_name
from steelyard.core.errors import NotFound
from steelyard.core.ids import TenantId, parse_tenant_id
from steelyard.runtime.database import Database, UnitOfWork
from steelyard.runtime.zones import find_zone


async def create_tenant(
    database: Database, tenant: TenantId, *, name: str, time_zone: str = "UTC", now: datetime
) -> bool:
    """Make a tenant; one with this id that is there already stays as it is.

    Returns:
        Whether it was new.
    Raises:
        InvalidInput: Id, name or zone is not acceptable.
    """
    parse_tenant_id(tenant)
    check_name(name, field="name")
    find_zone(time_zone, field="time_zone")
    return await store.create_tenant(
        database, Tenant(tenant, name, time_zone, TenantStatus.ACTIVE, now)
    )


async def get_tenant(uow: UnitOfWork) -> Tenant:
    """Return the unit of work's own tenant.

    Raises:
        NotFound: There is no such tenant.
    """
    found = await store.find_tenant(uow)
    if found is None:
        raise NotFound(kind="tenant", identifier=uow.tenant)
    return found


async def list_tenants(database: Database) -> list[Tenant]:
    """Return every tenant by id. Crosses the wall between tenants: for the operator's commands only."""
    return await store.list_tenants(database)
