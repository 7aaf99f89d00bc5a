"""Hears what other processes commit: a real subscription, watched, made again when it is lost."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

import structlog
from redis.asyncio.connection import AbstractConnection

from steelyard.core.clock import Clock
from steelyard.core.errors import NotFound
from steelyard.core.ids import AccountId, TenantId, UserId, parse_account_id
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.redis.connect import LOST, RedisServer
from steelyard.runtime.redis.counts import RedisCounts
from steelyard.runtime.redis.hints import MESSAGE_BYTES_MAX, Hints, HintUnreadable, whose
from steelyard.runtime.redis.keys import ACCOUNTS_CHANNEL, CHANNEL, OTHER_TENANTS, tenant_of
from steelyard.runtime.redis.owners import AccountOwners
from steelyard.runtime.redis.pushes import Push, PushReader

SUBSCRIBE_DEADLINE_S = 2.0
QUIET_S = 2.0
"""After so long without a word the server is asked whether it is there, and after as long again given up."""
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 2.0
SUSPECTS_A_SECOND: Final = 100

Suspect = Callable[[TenantId, AccountId | None, UserId | None], None]

_log = structlog.get_logger()


def _ignore_suspect(tenant: TenantId, account: AccountId | None, user: UserId | None) -> None:
    """Nobody looks at what unsigned messages name."""


def _ignore_resumed() -> None:
    """Nobody looks after what was missed."""


@dataclass(slots=True)
class RedisHearing:
    """The one subscription of this process; puts what is signed on the process's own bus."""

    server: RedisServer
    bus: InProcessBus
    owners: AccountOwners
    hints: Hints
    clock: Clock
    counts: RedisCounts
    suspect: Suspect = _ignore_suspect
    """Told whom an unsigned message names, at most 100 a second: it is not believed, but one may look."""
    resumed: Callable[[], None] = _ignore_resumed
    """Told when the subscription is there, each time anew: what was said before may have been missed."""
    _was_up: bool = False
    _suspects: int = 0
    _second: float = field(default=0.0)

    async def run(self) -> None:
        """Listen until cancelled; after a loss subscribe again, at most 2 s later."""
        pause_s = PAUSE_FIRST_S
        while True:
            connection: AbstractConnection | None = None
            try:
                connection = await self.server.connect("hearing")
                await self._subscribe(connection)
                pause_s = PAUSE_FIRST_S
                self._note_up()
                await self._listen(connection)
            except LOST as error:
                self.counts.failures += 1
                if self.counts.is_subscribed:
                    _log.warning(
                        "redis.subscription_lost",
                        server=self.server.name,
                        reason=type(error).__name__,
                    )
            finally:
                self.counts.is_subscribed = False
                if connection is not None:
                    await connection.disconnect(nowait=True)
            await asyncio.sleep(pause_s * (0.5 + secrets.randbelow(1000) / 1000))
            pause_s = min(pause_s * 2, PAUSE_MAX_S)

    async def _subscribe(self, connection: AbstractConnection) -> None:
        async with asyncio.timeout(SUBSCRIBE_DEADLINE_S):
            await connection.send_command("SUBSCRIBE", CHANNEL, ACCOUNTS_CHANNEL)
            await connection.send_command("PSUBSCRIBE", OTHER_TENANTS)
            confirmed = 0
            while confirmed < 3:
                answer = await connection.read_response()
                confirmed += answer[0] in (b"subscribe", b"psubscribe")

    def _note_up(self) -> None:
        self.counts.is_subscribed = True
        if self._was_up:
            self.counts.reconnects += 1
            _log.info("redis.subscribed_again", server=self.server.name)
        self._was_up = True
        self._guarded(self.resumed)

    async def _listen(self, connection: AbstractConnection) -> None:
        """Take messages until the connection is lost, or silent although asked.

        Raises:
            RedisError, OSError, TimeoutError: It is.
        """
        reader, is_asked = PushReader(), False
        while True:
            try:
                async with asyncio.timeout(QUIET_S):
                    pushes = await reader.read(connection)
            except TimeoutError:
                if is_asked:
                    raise
                is_asked = True
                async with asyncio.timeout(QUIET_S):
                    await connection.send_command("PING")
                continue
            is_asked = False
            for push in pushes:
                self._take(push)
            await asyncio.sleep(0)  # a flood must not keep the others from working

    def _take(self, push: Push) -> None:
        if len(push) < 3 or push[0] not in (b"message", b"pmessage"):
            return
        channel, message = push[-2], push[-1]
        if len(message) > MESSAGE_BYTES_MAX:
            self.counts.malformed += 1
        elif not self.hints.is_own(message) and not self.hints.is_told_otherwise(message):
            self._take_foreign(channel.decode("utf-8", "replace"), message)

    def _take_foreign(self, channel: str, message: bytes) -> None:
        tenant = tenant_of(channel)
        if tenant is None:
            self.counts.malformed += 1
            return
        if not self.hints.is_signed(channel, message):
            self.counts.unsigned += 1
            self._note_suspect(tenant, message)
            return
        try:
            event = self.hints.read(tenant, message)
        except HintUnreadable:
            self.counts.malformed += 1
            return
        now = self.clock.now()
        if not self.hints.is_news(message, event, now=now):
            self.counts.expired += 1
            return
        self.counts.heard += 1
        self.counts.lag_s = max(0.0, (now - event.at).total_seconds())
        if event.user is not None:
            self.owners.note(tenant, event.account, event.user)
        self.bus.publish_foreign(event)

    def _note_suspect(self, tenant: TenantId, message: bytes) -> None:
        now_s = self.clock.monotonic_s()
        if now_s - self._second >= 1.0:
            self._second, self._suspects = now_s, 0
        self._suspects += 1
        if self._suspects > SUSPECTS_A_SECOND:
            return
        account_text, user_text = whose(message)
        account: AccountId | None = None
        try:
            account = parse_account_id(account_text) if account_text else None
        except NotFound:
            return
        user = UserId(user_text) if user_text else None
        if account is not None or user is not None:
            self._guarded(lambda: self.suspect(tenant, account, user))

    def _guarded(self, hook: Callable[[], None]) -> None:
        try:
            hook()
        except Exception:  # what others do with it must not end the hearing; counted
            self.counts.failures += 1
