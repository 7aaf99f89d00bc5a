"""A real Valkey of a test's own, to be killed, paused and started again."""

import asyncio
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis
from redis.exceptions import RedisError

from steelyard.runtime.valkey.program import find_program

START_DEADLINE_S = 10.0


@dataclass(slots=True)
class ValkeyProcess:
    """One server on a Unix socket; what it holds is lost with it."""

    binary: Path
    socket: Path
    process: subprocess.Popen[bytes]

    @classmethod
    async def start(cls, folder: Path) -> "ValkeyProcess":
        """Start one and wait until it answers."""
        await asyncio.to_thread(folder.mkdir, parents=True)
        binary, socket = find_program().path, folder / "v.sock"
        made = cls(binary, socket, _spawn(binary, socket))
        await made._wait_until_ready()
        return made

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash does."""
        self.process.kill()
        self.process.wait(10)

    async def restart(self) -> None:
        """Start it again on the same socket, empty."""
        self.process = _spawn(self.binary, self.socket)
        await self._wait_until_ready()

    async def command(self, *words: str) -> object:
        """Run one command; None where it does not answer."""
        client = Redis(unix_socket_path=str(self.socket), socket_timeout=2)
        try:
            answer: object = await client.execute_command(*words)  # type: ignore[no-untyped-call]
            return answer
        except (RedisError, OSError):
            return None
        finally:
            await client.aclose()

    async def stop(self) -> None:
        """End it."""
        self.process.send_signal(signal.SIGCONT)
        self.process.terminate()
        await asyncio.to_thread(self.process.wait, 10)

    async def _wait_until_ready(self) -> None:
        async with asyncio.timeout(START_DEADLINE_S):
            while not await self.command("PING"):
                assert self.process.poll() is None, "Valkey ended"
                await asyncio.sleep(0.02)


def _spawn(binary: Path, socket: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [
            str(binary), "--port", "0", "--unixsocket", str(socket), "--unixsocketperm", "700",
            "--save", "", "--appendonly", "no", "--dir", str(socket.parent), "--logfile", "v.log",
        ],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )  # fmt: skip
