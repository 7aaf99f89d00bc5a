"""Cache and channel in Redis or Valkey: shared by the processes of an installation, and never the record."""

from steelyard.runtime.redis.counts import RedisCounts
from steelyard.runtime.redis.link import RedisLink, RedisPorts, open_redis
from steelyard.runtime.redis.owners import AccountOwners, Owner, Place

__all__ = [
    "AccountOwners",
    "Owner",
    "Place",
    "RedisCounts",
    "RedisLink",
    "RedisPorts",
    "open_redis",
]
