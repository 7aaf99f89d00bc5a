"""Lets a caller go on reading while the database is away, on the strength of a recent check.

Money never moves this way. Revocations live in the database, so none can be made while it is away; what
remains is one made elsewhere shortly before, and such a caller could read its old balance for some minutes.
"""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

from steelyard.access.authenticate import Authenticator
from steelyard.access.errors import Refusal, Unauthenticated
from steelyard.access.model import Authentication
from steelyard.core.clock import Clock
from steelyard.core.errors import DatabaseUnavailable

AGE_S_MAX = 900.0
LIMIT = 10_000
CHECK_DEADLINE_S = 0.7
"""So short that an answer from memory still leaves within the request's deadline."""


@dataclass(slots=True)
class RememberedCallers:
    """Callers whose credential was checked in the last 15 minutes; credentials are kept as hashes only."""

    authenticator: Authenticator
    clock: Clock
    _known: OrderedDict[bytes, tuple[Authentication, float]] = field(default_factory=OrderedDict)

    async def authenticate(self, credential: str) -> Authentication:
        """Return who asks; when the database does not answer, who asked with this credential before.

        Raises:
            Unauthenticated: As the authenticator says, or the credential has expired meanwhile.
            DatabaseUnavailable: No answer, and the credential was not seen in the last 15 minutes.
        """
        digest = hashlib.sha256(credential.encode("utf-8", "surrogatepass")).digest()
        now_s = self.clock.monotonic_s()
        try:
            async with asyncio.timeout(CHECK_DEADLINE_S):
                found = await self.authenticator.check_credential(credential)
        except Unauthenticated:
            self._known.pop(digest, None)
            raise
        except (DatabaseUnavailable, TimeoutError) as error:
            return self._recall(digest, now_s, error)
        self._known[digest] = (found, now_s)
        if len(self._known) > LIMIT:
            self._known.popitem(last=False)
        return found

    def _recall(self, digest: bytes, now_s: float, error: Exception) -> Authentication:
        known = self._known.get(digest)
        if known is None or now_s - known[1] > AGE_S_MAX:
            if isinstance(error, DatabaseUnavailable):
                raise error
            raise DatabaseUnavailable(doing="checking who asks") from error
        expires_at = known[0].expires_at
        if expires_at is not None and self.clock.now() >= expires_at:
            raise Unauthenticated(Refusal.EXPIRED)
        return known[0]
