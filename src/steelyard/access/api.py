"""Routes about who asks: users, API keys, the audit record, the caller's own tenant."""

from collections import Counter
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Request, Response

from steelyard.access import api_keys, audit, tenants, users
from steelyard.access.guard_route import requires, services_of
from steelyard.access.model import Principal, Role, UserStatus
from steelyard.access.pages import PAGE_SIZE, PAGE_SIZE_MAX, Place, read_cursor, write_cursor
from steelyard.access.roles import Permission
from steelyard.access.shapes import (
    GivenKey,
    GivenUser,
    GivenUserEdit,
    GivenUsers,
    Page,
    ToldAuditLine,
    ToldKey,
    ToldNewKey,
    ToldRow,
    ToldRows,
    ToldTenant,
    ToldUser,
    tell_audit_line,
    tell_key,
    tell_new_key,
    tell_tenant,
    tell_user,
)
from steelyard.access.users import Keep, NewUser, RowOutcome, UserEdit
from steelyard.core.errors import InvalidInput, NotFound
from steelyard.core.ids import UserId, parse_user_id

router = APIRouter(prefix="/api")

Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before")]
Limit = Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX, description="Items on a page")]
UserPath = Annotated[str, Path(alias="id", min_length=1, max_length=128)]
KeyPath = Annotated[str, Path(alias="id", min_length=1, max_length=64)]

_SENTENCES = {
    400: "The body cannot be read",
    401: "No, bad, expired or revoked token or key",
    403: "The role may not",
    404: "No such thing here",
    409: "The state does not allow it",
    413: "The body is too large",
    415: "The body is not declared as JSON",
    422: "A value is not acceptable",
    503: "The database did not answer; the same request is safe",
}


def _refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return how a route's refusals are documented; every route can answer 401, 403, 422 and 503."""
    return {
        status: {
            "description": _SENTENCES[status],
            "content": {"application/problem+json": {"schema": {"type": "object"}}},
        }
        for status in sorted({*statuses, 401, 403, 422, 503})
    }


_WITH_BODY = (400, 413, 415)


def _request_id(request: Request) -> str | None:
    return getattr(request.state, "request_id", None)


# --- users ------------------------------------------------------------------------------------


@router.post(
    "/users", status_code=201, responses={200: {"model": ToldUser}, **_refusals(409, *_WITH_BODY)}
)
async def create_user(
    request: Request,
    response: Response,
    body: GivenUser,
    principal: Annotated[Principal, Depends(requires(Permission.USERS_WRITE))],
) -> ToldUser:
    """Make a user. The same call again answers the user with 200; another user with this id is a 409."""
    services = services_of(request)
    now = services.clock.now()
    async with services.database.unit_of_work(principal.tenant) as uow:
        user, is_new = await users.create_user(uow, _new_user(body), now=now)
        if is_new:
            await audit.record_audit(
                uow,
                principal,
                action="user.create",
                target=f"user:{user.id}",
                now=now,
                request_id=_request_id(request),
            )
    response.status_code = 201 if is_new else 200
    return tell_user(user)


@router.post("/users/bulk", responses=_refusals(*_WITH_BODY))
async def upsert_users(
    request: Request,
    body: GivenUsers,
    principal: Annotated[Principal, Depends(requires(Permission.USERS_WRITE))],
) -> ToldRows:
    """Make or change up to 10,000 users; each row has its own outcome, and repeating the call is safe."""
    services = services_of(request)
    now = services.clock.now()
    async with services.database.unit_of_work(principal.tenant) as uow:
        rows = await users.upsert_users(uow, [_new_user(user) for user in body.users], now=now)
        counts = Counter(row.outcome for row in rows)
        if counts[RowOutcome.CREATED] or counts[RowOutcome.UPDATED]:
            await audit.record_audit(
                uow,
                principal,
                action="users.upsert",
                now=now,
                request_id=_request_id(request),
                details={outcome.value: counts[outcome] for outcome in RowOutcome},
            )
    for row in rows:
        if row.outcome is RowOutcome.UPDATED:
            services.authenticator.forget_user(principal.tenant, row.id)
    told = [ToldRow(id=row.id, outcome=row.outcome.value, problem=row.problem) for row in rows]
    return ToldRows(data=told, **{outcome.value: counts[outcome] for outcome in RowOutcome})


@router.get("/users", responses=_refusals())
async def list_users(
    request: Request,
    principal: Annotated[Principal, Depends(requires(Permission.USERS_READ))],
    cursor: Cursor = None,
    limit: Limit = PAGE_SIZE,
) -> Page[ToldUser]:
    """List the tenant's users by id."""
    after = read_cursor(cursor, of="users")
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        found = await users.list_users(uow, after=after, limit=limit + 1)
    has_more = len(found) > limit
    shown = found[:limit]
    following = write_cursor(Place("users", shown[-1].id)) if has_more else None
    return Page(data=[tell_user(user) for user in shown], next_cursor=following, has_more=has_more)


@router.get("/users/{id}", responses=_refusals(404))
async def get_user(
    request: Request,
    user_id: UserPath,
    principal: Annotated[Principal, Depends(requires(Permission.USERS_READ))],
) -> ToldUser:
    """Return one user."""
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        return tell_user(await users.get_user(uow, _user_id(user_id)))


@router.patch("/users/{id}", responses=_refusals(404, *_WITH_BODY))
async def change_user(
    request: Request,
    user_id: UserPath,
    body: GivenUserEdit,
    principal: Annotated[Principal, Depends(requires(Permission.USERS_WRITE))],
) -> ToldUser:
    """Change a user, or revoke every token it was given before now; what is left out stays."""
    services, changed_id = services_of(request), _user_id(user_id)
    now, given = services.clock.now(), body.model_fields_set
    edit = UserEdit(
        display_name=body.display_name if "display_name" in given else Keep.KEEP,
        status=UserStatus(body.status) if "status" in given else Keep.KEEP,
        revokes_tokens=body.revoke_tokens,
    )
    async with services.database.unit_of_work(principal.tenant) as uow:
        user = await users.change_user(uow, changed_id, edit, now=now)
        await audit.record_audit(
            uow,
            principal,
            action="user.change",
            target=f"user:{user.id}",
            now=now,
            request_id=_request_id(request),
            details={"fields": sorted(given), "status": user.status.value},
        )
    services.authenticator.forget_user(principal.tenant, changed_id)
    return tell_user(user)


def _user_id(text: str) -> UserId:
    # What can be no id names nobody; whether an id is well formed is not told.
    try:
        return parse_user_id(text)
    except InvalidInput as error:
        raise NotFound(kind="user", identifier=text[:40]) from error


def _new_user(given: GivenUser) -> NewUser:
    status = None if given.status is None else UserStatus(given.status)
    return NewUser(UserId(str(given.id)), given.display_name, status)


# --- API keys ---------------------------------------------------------------------------------


@router.post("/keys", status_code=201, responses=_refusals(*_WITH_BODY))
async def create_api_key(
    request: Request,
    body: GivenKey,
    principal: Annotated[Principal, Depends(requires(Permission.KEYS_WRITE))],
) -> ToldNewKey:
    """Make an API key; the answer is the only place where its secret is ever shown."""
    services = services_of(request)
    now = services.clock.now()
    order = api_keys.KeyOrder(body.name, Role(body.role), body.expires_at)
    async with services.database.unit_of_work(principal.tenant) as uow:
        new = await api_keys.create_api_key(uow, order, created_by=principal.subject, now=now)
        await audit.record_audit(
            uow,
            principal,
            action="key.create",
            target=f"key:{new.key.id}",
            now=now,
            request_id=_request_id(request),
            details={"role": new.key.role.value},
        )
    return tell_new_key(new.key, new.text)


@router.get("/keys", responses=_refusals())
async def list_api_keys(
    request: Request,
    principal: Annotated[Principal, Depends(requires(Permission.KEYS_READ))],
    cursor: Cursor = None,
    limit: Limit = PAGE_SIZE,
) -> Page[ToldKey]:
    """List the tenant's API keys by id, revoked ones too."""
    after = read_cursor(cursor, of="keys")
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        found = await api_keys.list_api_keys(uow, after=after, limit=limit + 1)
    has_more = len(found) > limit
    shown = found[:limit]
    following = write_cursor(Place("keys", shown[-1].id)) if has_more else None
    return Page(data=[tell_key(key) for key in shown], next_cursor=following, has_more=has_more)


@router.delete("/keys/{id}", responses=_refusals(404))
async def revoke_api_key(
    request: Request,
    key_id: KeyPath,
    principal: Annotated[Principal, Depends(requires(Permission.KEYS_WRITE))],
) -> ToldKey:
    """Revoke an API key; within 5 s no process takes it. A key revoked before keeps its time."""
    services = services_of(request)
    now = services.clock.now()
    async with services.database.unit_of_work(principal.tenant) as uow:
        key = await api_keys.revoke_api_key(uow, key_id, now=now)
        await audit.record_audit(
            uow,
            principal,
            action="key.revoke",
            target=f"key:{key.id}",
            now=now,
            request_id=_request_id(request),
        )
    services.authenticator.forget_key(key.id)
    return tell_key(key)


# --- audit and tenant -------------------------------------------------------------------------


@router.get("/audit", responses=_refusals())
async def list_audit(
    request: Request,
    principal: Annotated[Principal, Depends(requires(Permission.AUDIT_READ))],
    cursor: Cursor = None,
    limit: Limit = PAGE_SIZE,
) -> Page[ToldAuditLine]:
    """List the tenant's audit record, newest first."""
    before = _read_audit_place(cursor)
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        found = await audit.list_audit(uow, before=before, limit=limit + 1)
    has_more = len(found) > limit
    shown = found[:limit]
    following = write_cursor(Place("audit", str(shown[-1].id))) if has_more else None
    return Page(
        data=[tell_audit_line(line) for line in shown], next_cursor=following, has_more=has_more
    )


def _read_audit_place(cursor: str | None) -> int | None:
    key = read_cursor(cursor, of="audit")
    if key is None:
        return None
    if not (key.isascii() and key.isdigit() and len(key) <= 18):
        raise InvalidInput(field="cursor", problem="it is no cursor of this list")
    return int(key)


@router.get("/tenant", responses=_refusals(404))
async def get_tenant(
    request: Request,
    principal: Annotated[Principal, Depends(requires(Permission.TENANT_READ))],
) -> ToldTenant:
    """Return the caller's own tenant."""
    async with services_of(request).database.unit_of_work(principal.tenant) as uow:
        return tell_tenant(await tenants.get_tenant(uow))
