"""Lets a caller go on reading while the database is away, on the strength of a recent check.

Money never moves this way. Revocations live in the database, so none can be made while it is away; what
remains is one made elsewhere shortly before, and such a caller could read its old balance for some minutes.
"""

from collections import OrderedDict
from dataclasses import dataclass, field

from steelyard.access.authenticate import Authenticator
from steelyard.access.errors import Refusal, Unauthenticated
from steelyard.access.model import Authentication
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable

AGE_S_MAX = 900.0
LIMIT = 10_000


@dataclass(slots=True)
class RememberedCallers:
    """Callers whose credential was checked in the last 15 minutes."""

    authenticator: Authenticator
    clock: Clock
    _known: OrderedDict[str, tuple[Authentication, float]] = field(default_factory=OrderedDict)

    async def authenticate(self, credential: str) -> Authentication:
        """Return who asks; when the database does not answer, who asked with this credential before.

        Raises:
            Unauthenticated: As the authenticator says, or the credential has expired meanwhile.
            DatabaseUnavailable: No answer, and the credential was not seen in the last 15 minutes.
        """
        now_s = self.clock.monotonic_s()
        try:
            found = await self.authenticator.check_credential(credential)
        except Unauthenticated:
            self._known.pop(credential, None)
            raise
        except DatabaseUnavailable:
            known = self._recall(credential, now_s)
            if known is None:
                raise
            return known
        self._known[credential] = (found, now_s)
        if len(self._known) > LIMIT:
            self._known.popitem(last=False)
        return found

    def _recall(self, credential: str, now_s: float) -> Authentication | None:
        known = self._known.get(credential)
        if known is None or now_s - known[1] > AGE_S_MAX:
            return None
        expires_at = known[0].expires_at
        if expires_at is not None and self.clock.now() >= expires_at:
            raise Unauthenticated(Refusal.EXPIRED)
        return known[0]
