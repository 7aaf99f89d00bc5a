"""One running Valkey: started, found alive, ended. What an earlier one left behind is ended first."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from steelyard.runtime.embedded.folder import give_to_owner
from steelyard.runtime.redis.connect import LOST, RedisServer, ask_all
from steelyard.runtime.valkey.place import Listening, ValkeyFolder, choose_place, settings_for
from steelyard.runtime.valkey.program import ValkeyProgram, ValkeyUnavailable

START_DEADLINE_S = 5.0
ANSWER_DEADLINE_S = 1.0
END_DEADLINE_S = 2.0
TRIES = 5
LOG_BYTES_MAX = 1024 * 1024
_LOOK_EVERY_S = 0.01


@dataclass(slots=True)
class ValkeyServer:
    """A Valkey that answered, and the right to run it here."""

    folder: ValkeyFolder
    program: ValkeyProgram
    place: Listening
    process: subprocess.Popen[bytes]
    lock: int

    @property
    def is_running(self) -> bool:
        """Whether its process lives."""
        return self.process.poll() is None

    async def restart(self) -> None:
        """Start it again at the same address.

        Raises:
            ValkeyUnavailable: It does not start.
        """
        self.process = await _launch(self.folder, self.program, self.place)

    async def stop(self) -> None:
        """End it and give the folder free."""
        try:
            await asyncio.to_thread(_end, self.process)
            for path in (self.folder.socket, self.folder.pid):
                path.unlink(missing_ok=True)
        finally:
            os.close(self.lock)


async def start_valkey(data_dir: Path, program: ValkeyProgram) -> ValkeyServer:
    """Start Valkey in a data folder that exists; nothing of an earlier one is kept.

    It ends when this process ends, however hard, where the system can arrange that (Linux with `setpriv`);
    elsewhere the next start ends it.

    Raises:
        ValkeyUnavailable: The folder is another process's, cannot be used, or the program does not start.
    """
    folder = _folder_in(data_dir)
    try:
        lock = _take_folder(folder)
    except OSError as error:
        raise ValkeyUnavailable(
            f"{folder.path} cannot be used: {error.strerror or error}"
        ) from None
    try:
        await _end_left_behind(folder)
        for left in range(TRIES, 0, -1):
            place = choose_place(folder)
            try:
                return ValkeyServer(
                    folder, program, place, await _launch(folder, program, place), lock
                )
            except ValkeyUnavailable:
                if place.socket is not None or left == 1:
                    raise  # a port may have been taken meanwhile; a socket is ours
        raise AssertionError("the last try returns or raises")
    except OSError as error:
        os.close(lock)
        raise ValkeyUnavailable(f"{folder.path}: {error.strerror or error}") from None
    except BaseException:
        os.close(lock)
        raise


def _folder_in(data_dir: Path) -> ValkeyFolder:
    return ValkeyFolder(Path(os.path.abspath(data_dir)) / "valkey")


def _take_folder(folder: ValkeyFolder) -> int:
    """Make the folder and take its lock, which ends with this process; return its descriptor."""
    folder.path.mkdir(mode=0o700, exist_ok=True)
    give_to_owner(folder.path)
    descriptor = os.open(folder.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner(folder.lock)
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise ValkeyUnavailable(f"another process runs one in {folder.path}") from None
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


async def _end_left_behind(folder: ValkeyFolder) -> None:
    """End the server that a killed owner left, politely and then by force, and remove its socket."""
    if folder.socket.exists() and folder.fits_socket:
        try:
            connection = await RedisServer(Listening(folder.socket).url).connect("ending")
            await ask_all(connection, [("SHUTDOWN", "NOSAVE", "NOW")], deadline_s=ANSWER_DEADLINE_S)
        except LOST:
            pass  # it has ended, or it does not answer
    pid = _left_process(folder)
    if pid is not None:
        os.kill(pid, signal.SIGKILL)
        for _ in range(int(END_DEADLINE_S / _LOOK_EVERY_S)):
            if _left_process(folder) is None:
                break
            await asyncio.sleep(_LOOK_EVERY_S)
    for path in (folder.socket, folder.pid):
        path.unlink(missing_ok=True)


def _left_process(folder: ValkeyFolder) -> int | None:
    """Return the process the pid file names, if it really is a Valkey that works in this folder (Linux only)."""
    try:
        pid = int(folder.pid.read_text(encoding="ascii"))
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
        where = Path(f"/proc/{pid}/cwd").readlink()
    except (OSError, ValueError):
        return None
    is_ours = b"valkey-server" in command and where == Path(os.path.realpath(folder.path))
    return pid if is_ours else None


async def _launch(
    folder: ValkeyFolder, program: ValkeyProgram, place: Listening
) -> "subprocess.Popen[bytes]":
    """Start the process and wait for its first answer."""
    try:
        process = _spawn(folder, program)
    except OSError as error:
        raise ValkeyUnavailable(
            f"{program.path} cannot be started: {error.strerror or error}"
        ) from None
    try:
        _give_settings(process, settings_for(place))
        await _wait_for_answer(process, place, folder)
    except BaseException:
        _end(process)
        raise
    return process


def _spawn(folder: ValkeyFolder, program: ValkeyProgram) -> "subprocess.Popen[bytes]":
    """Start the process in a session of its own, with its log in the folder, and note its number."""
    folder.socket.unlink(missing_ok=True)
    log = os.open(folder.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        give_to_owner(folder.log)
        if os.fstat(log).st_size > LOG_BYTES_MAX:
            os.ftruncate(log, 0)
        # Called in the main thread: "the death of the parent" is that of the thread that started it.
        process = subprocess.Popen(
            [*_tied_to_parent(), str(program.path), "-"],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=log,
            cwd=folder.path,
            env={"LC_ALL": "C", "PATH": os.defpath},
            start_new_session=True,
        )
    finally:
        os.close(log)
    folder.pid.write_text(f"{process.pid}\n", encoding="ascii")
    return process


def _give_settings(process: "subprocess.Popen[bytes]", settings: str) -> None:
    assert process.stdin is not None, "asked for"
    try:
        process.stdin.write(settings.encode())
        process.stdin.close()
    except BrokenPipeError:
        return  # it has ended; whoever waits for its answer says so


async def _wait_for_answer(
    process: "subprocess.Popen[bytes]", place: Listening, folder: ValkeyFolder
) -> None:
    server, loop = RedisServer(place.url), asyncio.get_running_loop()
    end_s = loop.time() + START_DEADLINE_S
    while process.poll() is None and loop.time() < end_s:
        if await answers(server):
            return
        await asyncio.sleep(_LOOK_EVERY_S)
    raise ValkeyUnavailable(f"it did not start; {folder.log} says why")


async def find_running_valkey(data_dir: Path) -> str | None:
    """Return the address of the Valkey that `up` runs on a data folder's socket; None where none answers there."""
    folder = _folder_in(data_dir)
    if not folder.fits_socket or not folder.socket.exists():
        return None
    url = Listening(folder.socket).url
    return url if await answers(RedisServer(url)) else None


async def answers(server: RedisServer) -> bool:
    """Say whether a server answers within a second."""
    try:
        connection = await server.connect("asking")
        await ask_all(connection, [("PING",)], deadline_s=ANSWER_DEADLINE_S)
        await connection.disconnect(nowait=True)
    except LOST:
        return False
    return True


def _tied_to_parent() -> list[str]:
    """Return what makes the system end the process with ours, where there is such a thing."""
    setpriv = shutil.which("setpriv") if sys.platform == "linux" else None
    return [setpriv, "--pdeathsig", "KILL", "--"] if setpriv else []


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(END_DEADLINE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
