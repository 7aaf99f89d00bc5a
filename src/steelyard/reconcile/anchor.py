"""Anchor: every account's head, written to a file that is kept elsewhere.

A chain proves that nothing before its head was altered, but not that the head is the newest: whoever
removes the last changes and sets the head back leaves a chain that holds. An anchor proves it: each
head it names must still be in its account's chain. It also finds a history that was rewritten together
with all of its hashes.

The file is text: a first line that says what it is, one line `account seq hash` per account in id
order, and a last line with the SHA-256 of everything before it. That digest is the whole in 64
characters, short enough to print or to publish. The file holds no names and no amounts.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from steelyard.core.clock import Clock, format_utc
from steelyard.core.errors import SteelyardError
from steelyard.core.ids import AccountId, TenantId
from steelyard.reconcile.chunks import chunks_of
from steelyard.reconcile.model import Discrepancy, Fault, Progress, no_progress
from steelyard.reconcile.store import heads
from steelyard.reconcile.store.snapshot import open_snapshot
from steelyard.reconcile.verify import Scope

_FORMAT = "steelyard anchor 1"
_CHECK_AT_ONCE = 10_000


class AnchorUnreadable(SteelyardError):
    """The anchor file is not one, is damaged, or is of another tenant."""

    code = "anchor_unreadable"

    def __init__(self, *, path: Path, problem: str) -> None:
        self.path, self.problem = path, problem
        super().__init__(f"{path} cannot be used as an anchor: {problem}; nothing was checked")


@dataclass(frozen=True, slots=True)
class Head:
    """The newest change of an account: its number and its hash."""

    account: AccountId
    seq: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Anchor:
    """What was written or read; `digest` is the SHA-256 of the file's lines, in hexadecimal."""

    tenant: TenantId
    taken_at: str
    accounts: int
    digest: str


async def write_anchor(scope: Scope, clock: Clock, path: Path) -> Anchor:
    """Write the heads of all of a tenant's accounts, seen at one moment, to a new file of mode 0600.

    Raises:
        FileExistsError: There is a file of that name; an anchor is never written over.
    """
    taken_at = format_utc(clock.now())
    digest, accounts = hashlib.sha256(), 0
    beside = path.with_name(path.name + ".part")
    opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(opened, "w", encoding="ascii", newline="\n") as file:

            def put(line: str) -> None:
                digest.update(f"{line}\n".encode())
                file.write(f"{line}\n")

            put(f"{_FORMAT} {json.dumps({'tenant': scope.tenant, 'taken_at': taken_at})}")
            async with open_snapshot(scope.database, scope.tenant) as uow:
                after = 0
                while page := await heads.list_heads(uow, after=after, limit=_CHECK_AT_ONCE):
                    for account, seq, hash_ in page:
                        put(f"{account} {seq} {hash_.hex()}")
                    after, accounts = page[-1][0], accounts + len(page)
            file.write(f"sha256 {digest.hexdigest()}\n")
            file.flush()
            os.fsync(file.fileno())
        os.link(beside, path)
    finally:
        beside.unlink(missing_ok=True)
    return Anchor(scope.tenant, taken_at, accounts, digest.hexdigest())


def read_anchor(path: Path, tenant: TenantId) -> tuple[Anchor, list[Head]]:
    """Read an anchor file and check it against its own digest.

    Raises:
        AnchorUnreadable: It is no anchor, was altered or cut, or is of another tenant.
        OSError: It cannot be opened.
    """
    lines = list(_lines_of(path))
    if len(lines) < 2 or not lines[0].startswith(_FORMAT + " "):
        raise AnchorUnreadable(path=path, problem="it does not begin as one")
    written = hashlib.sha256("".join(f"{line}\n" for line in lines[:-1]).encode()).hexdigest()
    if lines[-1] != f"sha256 {written}":
        raise AnchorUnreadable(path=path, problem="its last line is not the digest of the others")
    about = json.loads(lines[0].removeprefix(_FORMAT + " "))
    if about["tenant"] != tenant:
        raise AnchorUnreadable(path=path, problem=f"it is of the tenant {about['tenant']!r}")
    found = [_head_of(line) for line in lines[1:-1]]
    return Anchor(tenant, about["taken_at"], len(found), written), found


async def check_anchor(
    scope: Scope, path: Path, *, progress: Progress = no_progress
) -> tuple[Anchor, list[Discrepancy]]:
    """Return what of the anchored heads is no longer in the accounts' chains.

    Together with a proof of the chains this proves that all history up to the anchor is as it was.

    Raises:
        AnchorUnreadable: See `read_anchor`.
    """
    anchor, anchored = read_anchor(path, scope.tenant)
    found: list[Discrepancy] = []
    done = 0
    for chunk in chunks_of(anchored, _CHECK_AT_ONCE):
        async with open_snapshot(scope.database, scope.tenant) as uow:
            lost = await heads.list_lost_heads(
                uow,
                [one.account for one in chunk],
                [one.seq for one in chunk],
                [one.hash for one in chunk],
            )
        for row in lost:
            what = "is gone" if row["is_gone"] else "is another one now"
            found.append(
                Discrepancy(
                    fault=Fault.ANCHOR,
                    tenant=scope.tenant,
                    account=AccountId(row["account_id"]),
                    user=row["user_id"],
                    currency=row["currency"],
                    digits=row["digits"] or 0,
                    sentence=f"change {row['seq']}, its newest when the anchor was taken, {what}",
                    seq=row["seq"],
                )
            )
        done += len(chunk)
        progress("anchored heads", done, len(anchored))
    return anchor, found


def _lines_of(path: Path) -> Iterator[str]:
    with path.open(encoding="ascii", errors="replace", newline="\n") as file:
        for line in file:
            yield line.rstrip("\n")


def _head_of(line: str) -> Head:
    account, seq, hash_ = line.split(" ")
    return Head(AccountId(int(account)), int(seq), bytes.fromhex(hash_))
