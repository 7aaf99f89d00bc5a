"""The ledger's own parts in processes of their own, reached over Unix sockets."""

import asyncio
from pathlib import Path

import msgspec

from tests.crash.history import Asked, Outcome, Unknown
from tests.crash.serve_orders import LINE_LIMIT, Call, Reply
from tests.crash.target import ChildProcess, ProcessDown, Standing, Target, python_command

ANSWER_DEADLINE_S = 6.0


class _Line:
    """One connection with many calls under way."""

    def __init__(self, incoming: asyncio.StreamReader, outgoing: asyncio.StreamWriter) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self.waiting: dict[int, asyncio.Future[Reply]] = {}
        self.number = 0
        self.listening = asyncio.create_task(self._listen())
        self.is_open = True
        self._decode = msgspec.json.Decoder(Reply).decode
        self._encode = msgspec.json.Encoder().encode

    async def call(self, *, order: Asked | None = None, account: int | None = None) -> Reply:
        self.number += 1
        number = self.number
        answer: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self.waiting[number] = answer
        self.outgoing.write(self._encode(Call(number, order, account)) + b"\n")
        try:
            async with asyncio.timeout(ANSWER_DEADLINE_S):
                return await answer
        except TimeoutError:
            return Reply(number, Unknown("no answer in time"))
        finally:
            self.waiting.pop(number, None)

    async def _listen(self) -> None:
        try:
            while line := await self.incoming.readline():
                reply = self._decode(line)
                waiting = self.waiting.get(reply.number)
                if waiting is not None and not waiting.done():
                    waiting.set_result(reply)
        except (OSError, msgspec.DecodeError):
            pass  # a killed process leaves half a line, or resets
        finally:
            self.is_open = False
            self.outgoing.close()
            for number, waiting in self.waiting.items():
                if not waiting.done():
                    waiting.set_result(Reply(number, Unknown("connection lost")))


class SocketTarget(Target):
    """Processes of `tests.crash.serve_orders` on one database; `fault` names a broken part, none is the product."""

    def __init__(self, folder: Path, url: str, *, count: int = 2, fault: str = "") -> None:
        self.paths = [folder / f"orders-{number}" for number in range(count)]
        super().__init__(
            [
                ChildProcess(
                    f"ledger process {number}",
                    python_command("tests.crash.serve_orders", str(path), url, fault),
                    folder / f"orders-{number}.log",
                )
                for number, path in enumerate(self.paths)
            ]
        )
        self.lines: list[_Line | None] = [None] * count

    async def is_ready(self, process: int) -> bool:
        """Whether the process takes connections."""
        try:
            await self._line(process)
        except ProcessDown:
            return False
        return True

    async def send(self, process: int, asked: Asked) -> Outcome:
        """Send one order."""
        line = await self._line(process)
        self.in_flight[process] += 1
        try:
            reply = await line.call(order=asked)
        finally:
            self.in_flight[process] -= 1
        assert reply.outcome is not None
        if not isinstance(reply.outcome, Unknown):
            self.answered[process] += 1
        return reply.outcome

    async def read(self, process: int, account: int) -> Standing | None:
        """Read one balance."""
        reply = await (await self._line(process)).call(account=account)
        if reply.outcome is not None:
            return None
        return Standing(reply.seq, reply.posted, reply.held)

    async def disconnect(self, process: int) -> None:
        """Drop the connection and the dead process's socket."""
        line = self.lines[process]
        self.lines[process] = None
        if line is not None:
            line.listening.cancel()
            await asyncio.wait([line.listening])
        self.paths[process].unlink(missing_ok=True)

    async def _line(self, process: int) -> _Line:
        line = self.lines[process]
        if line is not None and line.is_open:
            return line
        try:
            streams = await asyncio.open_unix_connection(str(self.paths[process]), limit=LINE_LIMIT)
        except OSError:
            raise ProcessDown from None
        other = self.lines[process]
        if other is not None and other.is_open:  # another client was quicker
            streams[1].close()
            return other
        line = self.lines[process] = _Line(*streams)
        return line
