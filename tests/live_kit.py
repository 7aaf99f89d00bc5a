"""A gateway on a test's own world, and clients that are no more than a list of what they heard."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from steelyard.access.authenticate import Authenticator
from steelyard.access.key_sets import FixedKeys
from steelyard.access.model import Role
from steelyard.access.tokens import TokenOrder, TokenRules, TokenVerifier, issue_token
from steelyard.core.clock import Clock
from steelyard.core.ids import DEFAULT_TENANT, AccountId, TenantId, UserId
from steelyard.live.gateway import Gateway, LivePorts
from steelyard.live.limits import LiveLimits
from steelyard.live.session import Session
from steelyard.live.transport import Ending, Hello
from steelyard.runtime.bus import InProcessBus
from steelyard.runtime.database import Database
from tests.world import World

SECRET = b"only for tests: 32 bytes and a few more"
DEADLINE_S = 10.0
QUICK = LiveLimits(sweep_interval_s=0.05, updates=100_000, messages=1_000)
"""A sweep that does not keep tests waiting, and no pace."""


@dataclass
class Client:
    """A transport that reads at once, or not at all while it is stalled."""

    session: Session | None = None
    heard: list[dict[str, Any]] = field(default_factory=list)
    ending: Ending | None = None
    is_stalled: bool = False
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Take what waits."""
        while self.session is not None and not self.is_stalled:
            event = self.session.take()
            if event is None:
                return
            self.heard.append({"event": event.name, **json.loads(event.payload)})
            self._news.set()

    def end(self, ending: Ending) -> None:
        """Keep why."""
        assert self.ending is None, "ended twice"
        self.ending = ending
        self._news.set()

    def read_on(self) -> None:
        """Read again."""
        self.is_stalled = False
        self.wake()

    def of(self, *names: str) -> list[dict[str, Any]]:
        """What was heard under these names."""
        return [one for one in self.heard if one["event"] in names]

    @property
    def completed(self) -> list[int]:
        """Positions of the transactions heard of."""
        return [one["seq"] for one in self.of("transaction_completed")]

    @property
    def last(self) -> dict[str, Any]:
        """The last balance heard of."""
        return self.of("balance_initial", "balance_updated")[-1]

    async def until(self, event: str, count: int = 1) -> dict[str, Any]:
        """Wait until so many events of this name were heard; return the last."""
        await self._when(lambda: len(self.of(event)) >= count)
        return self.of(event)[-1]

    async def until_at(self, seq: int) -> None:
        """Wait until the last balance heard of is at this position."""
        balances = ("balance_initial", "balance_updated")
        await self._when(lambda: bool(self.of(*balances)) and self.last["seq"] == seq)

    async def until_ended(self) -> Ending:
        """Wait for the end."""
        await self._when(lambda: self.ending is not None)
        assert self.ending is not None
        return self.ending

    async def _when(self, is_so: Callable[[], bool]) -> None:
        async with asyncio.timeout(DEADLINE_S):
            while not is_so():
                self._news.clear()
                await self._news.wait()

    async def say(self, event: str, **data: Any) -> Any:
        """Say something; return the acknowledgement."""
        assert self.session is not None
        answer = await self.session.hear(event, data)
        return None if answer is None else json.loads(answer)


@dataclass
class Stage:
    """A world with a gateway, and tokens for it."""

    world: World
    gateway: Gateway
    clock: Clock

    def token(
        self,
        user: str,
        role: Role = Role.USER,
        *,
        tenant: TenantId = DEFAULT_TENANT,
        lifetime: timedelta = timedelta(hours=1),
    ) -> str:
        """A token that counts from now on."""
        order = TokenOrder(tenant, UserId(user), role, lifetime)
        return issue_token(order, rules=TokenRules(), key=SECRET, now=self.clock.now())

    async def open(self, token: str | None, **hello: Any) -> Client:
        """Let a client in; it has not been told that it is connected. Raises Refused."""
        client = Client()
        client.session = await self.gateway.open(Hello("websocket", token, **hello), client)
        return client

    async def connect(self, user: str, **hello: Any) -> Client:
        """Connect a user and wait for its first balance."""
        client = await self.open(self.token(user), **hello)
        assert client.session is not None
        client.session.start()
        await client.until("balance_initial")
        return client


def authenticator_of(database: Database, clock: Clock) -> Authenticator:
    """Believes the tokens of a stage."""
    return Authenticator.build(
        database, TokenVerifier(TokenRules(), FixedKeys((SECRET,)), clock), clock
    )


@asynccontextmanager
async def stage_of(
    world: World,
    limits: LiveLimits = QUICK,
    *,
    bus: InProcessBus | None = None,
    clock: Clock | None = None,
) -> AsyncIterator[Stage]:
    """Open a gateway; on a bus of its own it is deaf to what the world's processes publish."""
    used = clock or world.clock
    ports = LivePorts(
        world.database, world.reader, authenticator_of(world.database, used), bus or world.bus, used
    )
    gateway = Gateway(ports, limits)
    gateway.run()
    try:
        yield Stage(world, gateway, used)
    finally:
        await gateway.close()


async def charge_many(world: World, account: AccountId, count: int, amount: int = 1) -> None:
    """Charge an account so many times, some at once."""
    ledger = world.ledger()
    for start in range(0, count, 50):
        many = min(50, count - start)
        await asyncio.gather(*(ledger.charge(account, amount) for _ in range(many)))
