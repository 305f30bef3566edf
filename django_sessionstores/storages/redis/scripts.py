"""The scripts that run inside Redis: a write decides there, and moves the index in the same step.

The keys of a session and of its place in the index have the same tag, so that this holds on a
cluster as well; see `keys` and `bucket_lua`. The index of users has a tag of its own for each user.
On one server the scripts of sessions move it, too.
"""

from __future__ import annotations

import hashlib
from typing import Final

from ...core.records import (
    FORMAT,
    HEAD_SIZE,
    SITE_OFFSET,
    SITE_SIZE,
    START_SIZE,
    TIMES_OFFSET,
    VERSION_OFFSET,
    State,
)
from .bucket_lua import BUCKET_LUA
from .keys import TAG_BITS, TAG_TEXTS, USER_SIZE

_STATE_OFFSET: Final = 1
VERSION_SIZE: Final = 8


class Script:
    """A Lua script, known to the server by its digest.

    Not redis-py's ``register_script``: that asks the server for each pipeline whether it knows
    the script.
    """

    def __init__(self, text: str) -> None:
        self.text = _PRELUDE + BUCKET_LUA + text
        self.sha = digest_of(self.text)


def digest_of(text: str) -> str:
    """Return the digest by which a server knows the whole text of a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


# Lua counts from 1. Numbers are compared as numbers: Lua compares strings by the server's locale.
# Its doubles are exact up to 2**53, which milliseconds reach in the year 287,396. Written out
# rather than with ``struct.unpack``, which reads four bytes of eight on a 32-bit server.
_PRELUDE: Final = f"""
local function number(bytes, offset)
    local n = 0
    for i = offset + 1, offset + 8 do
        n = n * 256 + string.byte(bytes, i)
    end
    return n
end
local function head(key)
    return redis.call('GETRANGE', key, 0, {HEAD_SIZE - 1})
end
local function version(bytes)
    return string.sub(bytes, {VERSION_OFFSET + 1}, {VERSION_OFFSET + VERSION_SIZE})
end
local function expiry(bytes)
    return number(bytes, {TIMES_OFFSET + 8})
end
local function expired(bytes, now)
    return #bytes == {HEAD_SIZE} and expiry(bytes) <= tonumber(now)
end
local function is_live(start)
    return string.byte(start, {_STATE_OFFSET + 1}) == {State.LIVE.value}
end
"""

RECORD_LUA: Final = f"""
-- Returns the beginning of a record; nothing if the key has anything else, or nothing.
local function start_of(key)
    local start = redis.pcall('GETRANGE', key, 0, {START_SIZE - 1})
    local is_record = type(start) == 'string' and #start >= {HEAD_SIZE + 2}
        and string.byte(start, 1) == {FORMAT}
        and string.byte(start, {_STATE_OFFSET + 1}) < {len(State)}
    return is_record and start
end
local function site_of(start)
    return string.sub(start, {SITE_OFFSET + 1}, {SITE_OFFSET + SITE_SIZE})
end
-- The user follows the head, as MessagePack.
local function user_of(start)
    local at = {HEAD_SIZE + 2}
    local kind, size = string.byte(start, at), nil
    if kind >= 0xa0 and kind <= 0xbf then
        size = kind - 0xa0
    elseif kind == 0xd9 or kind == 0xda then
        size = string.byte(start, at + 1) or 0
        if kind == 0xda then size = size * 256 + (string.byte(start, at + 2) or 0) end
        at = at + kind - 0xd8
    end
    return size and string.sub(start, at + 1, at + size)
end
"""
"""The functions of scripts that look into records of which they know nothing."""

# The keys behind those of records are directories of the index. For each there are three arguments
# behind those that a script names, see `move`.

# Returns 1 if it wrote. A client that retries may send a command twice: no other session is
# encrypted to the same bytes, but two tombstones may be equal.
CREATE: Final = Script(
    """
local record, ttl = ARGV[1], ARGV[2]
if not redis.call('SET', KEYS[1], record, 'PX', ttl, 'NX') then
    return is_live(record) and redis.pcall('GET', KEYS[1]) == record and 1 or 0
end
move(2, 3)
return 1
"""
)

# Returns 1 if it wrote, nothing if there is no record, and otherwise the current record. A full
# server must allow a tombstone, which takes less memory than the session that it replaces. The
# index stays as it is if it only has to have the expiry that the session has already.
UPDATE: Final = Script(
    """
local expected, now, record, ttl = unpack(ARGV, 1, 4)
local current = head(KEYS[1])
if current == '' or expired(current, now) then return false end
if version(current) ~= expected then return redis.call('GET', KEYS[1]) end
if not is_live(record) then redis.call('PEXPIRE', KEYS[1], ttl) end
redis.call('SET', KEYS[1], record, 'PX', ttl)
if not is_live(record) and expiry(record) == 0 then redis.call('DEL', KEYS[1]) end
local stays = #KEYS == 2 and is_live(current) and expiry(current) == tonumber(ARGV[6])
if not stays then move(2, 5) end
return 1
"""
)

# Like UPDATE, with the tombstone at the old key; returns 0 if the new key is taken. If the new key
# has what it would write, that is not a collision: a client that retries may send a command twice.
ROTATE: Final = Script(
    """
local expected, now, tombstone, tombstone_ttl, record, ttl = unpack(ARGV, 1, 6)
local there = redis.call('GET', KEYS[2])
if there then return there == record and 1 or 0 end
local current = head(KEYS[1])
if current == '' or expired(current, now) then return false end
if version(current) ~= expected then return redis.call('GET', KEYS[1]) end
redis.call('SET', KEYS[2], record, 'PX', ttl)
redis.call('SET', KEYS[1], tombstone, 'PX', tombstone_ttl)
move(3, 7)
return 1
"""
)

# Returns 1 if it wrote. Times move only forward. PEXPIRE comes first because a full server allows
# it, and then also allows the other writes of the script: reading must work without memory.
TOUCH: Final = Script(
    f"""
local expected, now, times, ttl = unpack(ARGV, 1, 4)
local current = head(KEYS[1])
if version(current) ~= expected or #current < {HEAD_SIZE} or expired(current, now) then
    return 0
end
local activity, expires = string.sub(times, 1, 8), string.sub(times, 9)
if number(current, {TIMES_OFFSET}) > number(activity, 0) then
    activity = string.sub(current, {TIMES_OFFSET + 1}, {TIMES_OFFSET + 8})
end
local later = number(expires, 0) - expiry(current)
if later >= 0 then
    redis.call('PEXPIRE', KEYS[1], ttl)
else
    expires = string.sub(current, {TIMES_OFFSET + 9}, {TIMES_OFFSET + 16})
end
redis.call('SETRANGE', KEYS[1], {TIMES_OFFSET}, activity .. expires)
if later > 0 then move(2, 5) end
return 1
"""
)

# The keys behind that of the record are the directories of sessions of this site, one for each of
# its marks, which are the last arguments. The others are the id, the beginning of all keys, whether
# the index of users is here as well, the time, and the channel that is told the id, if any. A user
# without the right to that may end sessions nevertheless. Returns whether there was a record that
# had not expired; a tombstone and a record of another site stay, and do not count. A value that is
# not a string is deleted like any other rubbish.
DELETE: Final = Script(
    f"""
{RECORD_LUA}
local id, prefix, has_users, now, channel = unpack(ARGV, 1, 5)
local start = start_of(KEYS[1])
if not start then
    redis.call('DEL', KEYS[1])
    return 0
end
local site, is_own = site_of(start), false
if site == '\\0\\0\\0\\0' then site = ARGV[6] end
for i = 6, #ARGV do is_own = is_own or site == ARGV[i] end
if not (is_own and is_live(start)) then return 0 end
redis.call('DEL', KEYS[1])
if channel ~= '' then redis.pcall('PUBLISH', channel, id) end
for i = 2, #KEYS do remove(KEYS[i], string.sub(id, 2)) end
local user = has_users == '1' and user_of(start)
if user then
    -- Redis has no other digest here; see `keys.User`.
    local digest, tags = redis.sha1hex(user), '{b"".join(TAG_TEXTS).decode()}'
    local tag = math.floor(tonumber(string.sub(digest, 1, 4), 16) / {2 ** (16 - TAG_BITS)})
    local name = string.gsub(string.sub(digest, 3, {2 + 2 * USER_SIZE}), '..', function(hex)
        return string.char(tonumber(hex, 16))
    end)
    tag = string.sub(tags, 2 * tag + 1, 2 * tag + 2)
    remove(prefix .. '{{' .. tag .. '}}u' .. site, name .. id)
end
return expiry(start) > tonumber(now) and 1 or 0
"""
)

# A value that is not a string is replaced like any other rubbish.
FILL: Final = Script(
    f"""
local record, ttl = unpack(ARGV)
local current = redis.pcall('GETRANGE', KEYS[1], 0, {HEAD_SIZE - 1})
if #current == {HEAD_SIZE} and (
    string.byte(current, {_STATE_OFFSET + 1}) ~= {State.LIVE.value}
    or number(current, {VERSION_OFFSET}) > number(record, {VERSION_OFFSET})
) then
    return
end
redis.call('SET', KEYS[1], record, 'PX', ttl)
"""
)

# --- Rights -----------------------------------------------------------------------------------

# These two call the commands of saves, lists and rebuilds so that they change nothing: the key is
# that of no record, no member of an index has that name, and what the last key holds is removed
# before anybody sees it. They return the commands that the user may not run. Any other error, such
# as that of a replica, is the answer.
_TRY: Final = """
local refused = {}
for _, command in ipairs(commands) do
    local answer = redis.pcall(unpack(command))
    local text = type(answer) == 'table' and answer.err or ''
    local is_right = string.find(text, 'ACL failure') or string.find(text, 'executing the script')
    if text ~= '' and (not is_right or string.find(text, ' key')) then return answer end
    if text ~= '' then table.insert(refused, command[1]) end
end
return refused
"""

MAY_WRITE_RECORD: Final = Script(
    f"""
local commands = {{
    {{'GETRANGE', KEYS[1], 0, 0}},
    {{'STRLEN', KEYS[1]}},
    {{'SET', KEYS[1], '', 'PX', 1, 'XX'}},
    {{'SETRANGE', KEYS[1], 0, ''}},
    {{'PEXPIRE', KEYS[1], 1}},
    {{'DEL', KEYS[1]}},
}}
{_TRY}
"""
)

# The keys are a directory and one that nobody has.
MAY_WRITE_INDEX: Final = Script(
    f"""
local set, probe = KEYS[1], KEYS[2]
local commands = {{
    {{'ZADD', set, 'XX', 0, 'x'}},
    {{'ZSCORE', set, 'x'}},
    {{'ZRANGEBYSCORE', set, 1, 0}},
    {{'ZRANGE', set, 1, 0}},
    {{'ZCOUNT', set, 1, 0}},
    {{'ZCARD', set}},
    {{'EXISTS', set}},
    {{'ZINCRBY', probe, 1, 'x'}},
    {{'ZREM', probe, 'x'}},
    {{'DEL', probe}},
}}
{_TRY}
"""
)

# The keys are the set of sites and one that nobody has.
MAY_NOTE_SITES: Final = Script(
    f"""
local set, probe = KEYS[1], KEYS[2]
local commands = {{
    {{'SMEMBERS', set}},
    {{'SADD', probe, 'x'}},
    {{'SREM', probe, 'x'}},
    {{'DEL', probe}},
}}
{_TRY}
"""
)
