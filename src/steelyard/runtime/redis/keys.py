"""Names in Redis: as the reference has them for the default tenant, with the tenant in front for others."""

import re

from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId

CHANNEL = "balance:updates"
ACCOUNTS_CHANNEL = "balance:updates:accounts"
OTHER_TENANTS = "t:*:balance:updates*"

_CHANNEL = re.compile(r"(?:t:([a-z0-9][a-z0-9-]{0,62}):)?balance:updates(?::accounts)?")

KeyPair = tuple[str, str]
"""Where a balance is held, and where its `seq` is held."""


def user_keys(tenant: TenantId, user: UserId) -> KeyPair:
    """Return the keys of a user's primary account."""
    before = _before(tenant)
    return f"{before}balance:user:{user}", f"{before}balance:seq:{user}"


def account_keys(tenant: TenantId, account: AccountId) -> KeyPair:
    """Return the keys of any other account."""
    before = _before(tenant)
    return f"{before}balance:account:{account}", f"{before}balance:seq:account:{account}"


def channel_of(tenant: TenantId, *, is_primary: bool) -> str:
    """Return the channel that speaks of a tenant's primary accounts, or of its others."""
    return _before(tenant) + (CHANNEL if is_primary else ACCOUNTS_CHANNEL)


def tenant_of(channel: str) -> TenantId | None:
    """Return whose channel it is; None where it is none of ours."""
    match = _CHANNEL.fullmatch(channel)
    if match is None or match[1] == DEFAULT_TENANT:
        return None
    return TenantId(match[1] or DEFAULT_TENANT)


def _before(tenant: TenantId) -> str:
    return "" if tenant == DEFAULT_TENANT else f"t:{tenant}:"
