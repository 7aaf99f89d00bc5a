"""What is held in the cache beside a number, so that a reader can tell which change it belongs to.

A number alone says nothing: it may be older than what was shown before, belong to an account that is no
longer the primary one, to another installation on the same server, or be rubbish. The record under
`balance:seq:…` names account and seq, repeats the number and carries a seal made with the installation's
key; a reader believes a number only if all of it agrees.
"""

import hmac
import re
from dataclasses import dataclass, field

from steelyard.core.errors import InvalidInput
from steelyard.core.ids import AccountId
from steelyard.core.money import Currency, Money, shortest_major
from steelyard.runtime.cache import CachedBalance

_RECORD = re.compile(rb"(\d{1,18}):(\d{1,18}):(-?[0-9.]{1,20}):(\d):([0-9a-f]{16})(?: .*)?")

FORGOTTEN = "-"
"""Held for seconds in place of a record after `forget`: nothing is stored meanwhile."""


@dataclass(frozen=True, slots=True)
class Records:
    """Writes and reads records with one installation's key."""

    key: bytes = field(repr=False)

    def write(self, value_key: str, account: AccountId, balance: CachedBalance) -> tuple[str, str]:
        """Return the number as it is held under `value_key`, and the record beside it."""
        number = shortest_major(balance.available, balance.digits)
        said = f"{account}:{balance.seq}:{number}:{balance.digits}"
        return number, f"{said}:{self._seal(value_key, said.encode())}"

    def read(
        self, value_key: str, account: AccountId, held: tuple[bytes | None, bytes | None]
    ) -> CachedBalance | None:
        """Return the balance that `held` (number, record) says of this account; None unless all of it agrees."""
        number, record = held
        match = _RECORD.fullmatch(record) if record is not None else None
        if match is None or match[3] != number or int(match[1]) != account:
            return None
        said = b":".join(match.group(1, 2, 3, 4))
        if not hmac.compare_digest(self._seal(value_key, said).encode(), match[5]):
            return None
        digits = int(match[4])
        try:
            minor = Money.parse(match[3].decode(), Currency("", digits)).minor
        except InvalidInput:
            return None
        return CachedBalance(minor, digits, int(match[2]))

    def _seal(self, value_key: str, said: bytes) -> str:
        return hmac.digest(self.key, b"cache\n%b\n%b" % (value_key.encode(), said), "sha256")[
            :8
        ].hex()


# ARGV: channel and message, one after the other.
PUBLISH_ALL = """
local refused = 0
for i = 1, #ARGV, 2 do
  local answer = redis.pcall('PUBLISH', ARGV[i], ARGV[i + 1])
  if type(answer) == 'table' then refused = refused + 1 end
end
return refused
"""

# KEYS: number and record of each balance. ARGV: TTL in ms, then of each balance: `fresh` or `late`, account, seq, number,
# record. What is held is replaced only by a larger seq of its account. Another account (the user's primary account has
# changed) takes the place, and the seq of the one before is remembered behind the record, so that it cannot come back
# older. A late balance, one that waited while the server was away, is stored only over an older one: on a server that has
# forgotten everything it could be older than what was shown before.
STORE_NEWER = """
local stored = 0
for i = 1, #KEYS / 2 do
  local value_key, seq_key, at = KEYS[2 * i - 1], KEYS[2 * i], 5 * i - 3
  local age, account, seq, number, record = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), ARGV[at + 3], ARGV[at + 4]
  local held = redis.pcall('GET', seq_key)
  if type(held) ~= 'string' then held = '' end
  if held ~= '-' then
    local held_account, held_seq, held_number = string.match(held, '^(%d+):(%d+):([%d%.%-]+):')
    local known, before, kept = -1, '', 0
    if held_account == account then
      known = tonumber(held_seq)
    elseif held_account then
      before, kept = ' ' .. held_account .. ':' .. held_seq, 1
    end
    for other, other_seq in string.gmatch(held, ' (%d+):(%d+)') do
      if other == account then
        known = math.max(known, tonumber(other_seq))
      elseif kept < 8 then
        before, kept = before .. ' ' .. other .. ':' .. other_seq, kept + 1
      end
    end
    local returns = seq == known and held_account ~= account
    if (seq > known or returns) and (age == 'fresh' or known >= 0) then
      redis.pcall('SET', value_key, number, 'PX', ARGV[1])
      redis.pcall('SET', seq_key, record .. before, 'PX', ARGV[1])
      stored = stored + 1
    elseif held_account == account and redis.pcall('GET', value_key) ~= held_number then
      redis.pcall('SET', value_key, held_number, 'PX', math.max(redis.call('PTTL', seq_key), 1))
    end
  end
end
return stored
"""
