"""What a program asks of reconciliation, for one tenant."""

from dataclasses import dataclass, replace
from pathlib import Path

from steelyard.access.model import Principal, system_principal
from steelyard.core.clock import Clock
from steelyard.core.ids import AccountId, TenantId, UserId
from steelyard.reconcile import anchor, fix, incremental, rebuild, verify
from steelyard.reconcile.fix import Check, Repairs
from steelyard.reconcile.model import Discrepancy, Progress, Report, no_progress
from steelyard.reconcile.rules import largest_first
from steelyard.reconcile.verify import Depth, Scope
from steelyard.runtime.bus import ChangeBus
from steelyard.runtime.cache import BalanceCache
from steelyard.runtime.database import Database


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Proves and repairs the balances of one tenant. Safe beside running charges."""

    database: Database
    tenant: TenantId
    clock: Clock
    cache: BalanceCache | None = None
    bus: ChangeBus | None = None
    actor: Principal | None = None
    """In whose name repairs are audited; the product's own if None."""
    request_id: str | None = None
    check: Check | None = None
    """Asked first in each unit of work that repairs; raises where it may not."""

    async def verify(
        self,
        user: UserId | None = None,
        *,
        depth: Depth = Depth.CHAIN,
        progress: Progress = no_progress,
    ) -> Report:
        """Prove all accounts and books, or one user's accounts; change nothing."""
        if user is not None:
            return await verify.verify_user(self._scope, user)
        return await verify.verify_tenant(self._scope, depth=depth, progress=progress)

    async def verify_incremental(self, *, progress: Progress = no_progress) -> Report:
        """Prove what is new since the last time; change nothing but the checkpoints."""
        return await incremental.verify_incremental(self._scope, self.clock, progress=progress)

    async def verify_and_fix(
        self, user: UserId | None = None, *, progress: Progress = no_progress
    ) -> Report:
        """Prove, repair what can be proved, audit it, and report what remains."""
        return await fix.verify_and_fix(self._scope, self._repairs, user=user, progress=progress)

    async def fix(self, report: Report, *, progress: Progress = no_progress) -> Report:
        """Repair what an earlier proof found; works out anew what is wrong, under lock."""
        await fix.fix_found(self._scope, self._repairs, report, progress=progress)
        return report

    async def rebuild_all(
        self, *, after: AccountId | None = None, progress: Progress = no_progress
    ) -> Report:
        """Recompute every account from its changes; may be stopped and begun again."""
        return await rebuild.rebuild_all(self._scope, self._repairs, after=after, progress=progress)

    async def discrepancies(self, *, depth: Depth = Depth.CHAIN) -> list[Discrepancy]:
        """Return every discrepancy, the largest difference first."""
        return largest_first((await self.verify(depth=depth)).details)

    async def write_anchor(self, path: Path) -> anchor.Anchor:
        """Write all heads to a new file, to be kept elsewhere."""
        return await anchor.write_anchor(self._scope, self.clock, path)

    async def check_anchor(
        self, path: Path, *, progress: Progress = no_progress
    ) -> tuple[anchor.Anchor, list[Discrepancy]]:
        """Compare with a file written earlier: each head it names must still be in its chain."""
        return await anchor.check_anchor(self._scope, path, progress=progress)

    def on_behalf_of(self, actor: Principal, *, request_id: str | None = None) -> "Reconcile":
        """Return the same for the tenant of `actor`, audited in its name."""
        return replace(self, tenant=actor.tenant, actor=actor, request_id=request_id)

    # Names of the reference (`BalanceService`), documented aliases.
    verify_and_fix_balance = verify_and_fix
    rebuild_all_balances = rebuild_all
    get_balance_discrepancies = discrepancies

    @property
    def _scope(self) -> Scope:
        return Scope(self.database, self.tenant, self.cache)

    @property
    def _repairs(self) -> Repairs:
        actor = self.actor or system_principal(self.tenant, "reconcile")
        return Repairs(actor, self.clock, self.bus, self.request_id, self.check)
