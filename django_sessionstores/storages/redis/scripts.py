"""The scripts that run inside Redis: a write decides there, and moves the index in the same step.

The index of a site is two sorted sets. One has a member for each session, its id and user, by the
moment of its expiry. The other has the sessions of users by user, all with the same score, so that
the members of a user are a range. Both begin with an empty member, which says that the set is
complete: a set that the server evicted, or that was never made, lacks it.

On a cluster the index is on a node of its own. The scripts of records are then called without the
keys of the index, and `MOVE` after them.
"""

from __future__ import annotations

import hashlib
from typing import Final

from ...core.records import (
    FORMAT,
    HEAD_SIZE,
    ID_SIZE,
    SITE_OFFSET,
    SITE_SIZE,
    START_SIZE,
    TIMES_OFFSET,
    VERSION_OFFSET,
    State,
)

_STATE_OFFSET: Final = 1
VERSION_SIZE: Final = 8


class Script:
    """A Lua script, known to the server by its digest.

    Not redis-py's ``register_script``: that asks the server for each pipeline whether it knows
    the script.
    """

    def __init__(self, text: str) -> None:
        self.text = _PRELUDE + text
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

local function by_user(member)
    return string.sub(member, {ID_SIZE + 2}) .. '\\0' .. string.sub(member, 1, {ID_SIZE})
end
local function unlist(all, users, member)
    redis.call('ZREM', all, member)
    if #member > {ID_SIZE} then redis.call('ZREM', users, by_user(member)) end
end
local function list(all, users, member, expires)
    redis.call('ZADD', all, expires, member)
    if #member > {ID_SIZE} then redis.call('ZADD', users, 0, by_user(member)) end
end
-- Each write removes two members that expired long ago, so that no purge is needed. The removed
-- member is in the other index, if there is one.
local function move(all, users, removed, added, expires, litter, other_all, other_users)
    if not all then return end
    if removed ~= '' and (other_all or removed ~= added) then
        unlist(other_all or all, other_users or users, removed)
    end
    if added ~= '' then list(all, users, added, expires) end
    local old = redis.call('ZRANGEBYSCORE', all, '(-inf', litter, 'LIMIT', 0, 2)
    for _, member in ipairs(old) do unlist(all, users, member) end
end
local function is_complete(set)
    return redis.call('ZSCORE', set, '')
end
-- A full server refuses writes that may need memory, unless the script has written before. This
-- writes nothing, and is for those that need little memory or none.
local function allow_when_full(key)
    redis.call('ZREM', key, '-')
end
"""

# The last four arguments of the scripts that write are for the index: the member to remove, the
# member to add, when that expires, and the moment before which expired members are litter. The keys
# after that of the record are the sets of the index, and of the index with the member to remove, if
# that is another one.

# Returns 1 if it wrote. A client that retries may send a command twice: no other session is
# encrypted to the same bytes, but two tombstones may be equal.
CREATE: Final = Script(
    f"""
local record, ttl, removed, added, expires, litter = unpack(ARGV)
if not redis.call('SET', KEYS[1], record, 'PX', ttl, 'NX') then
    local is_live = string.byte(record, {_STATE_OFFSET + 1}) == {State.LIVE.value}
    return is_live and redis.pcall('GET', KEYS[1]) == record and 1 or 0
end
move(KEYS[2], KEYS[3], removed, added, expires, litter)
return 1
"""
)

# Returns 1 if it wrote, nothing if there is no record, and otherwise the current record. A full
# server must allow a tombstone, which takes less memory than the session that it replaces.
UPDATE: Final = Script(
    f"""
local expected, now, record, ttl, removed, added, expires, litter = unpack(ARGV)
local current = head(KEYS[1])
if current == '' or expired(current, now) then return false end
if version(current) ~= expected then return redis.call('GET', KEYS[1]) end
if string.byte(record, {_STATE_OFFSET + 1}) ~= {State.LIVE.value} then
    redis.call('PEXPIRE', KEYS[1], ttl)
end
redis.call('SET', KEYS[1], record, 'PX', ttl)
if removed ~= added or KEYS[4] or expiry(current) ~= tonumber(expires) then
    move(KEYS[2], KEYS[3], removed, added, expires, litter, KEYS[4], KEYS[5])
end
return 1
"""
)

# Like UPDATE, with the tombstone at the old key; returns 0 if the new key is taken. If the new key
# has what it would write, that is not a collision: a client that retries may send a command twice.
ROTATE: Final = Script(
    """
local expected, now, tombstone, tombstone_ttl, record, ttl, removed, added, expires, litter
    = unpack(ARGV)
local there = redis.call('GET', KEYS[2])
if there then return there == record and 1 or 0 end
local current = head(KEYS[1])
if current == '' or expired(current, now) then return false end
if version(current) ~= expected then return redis.call('GET', KEYS[1]) end
redis.call('SET', KEYS[2], record, 'PX', ttl)
redis.call('SET', KEYS[1], tombstone, 'PX', tombstone_ttl)
move(KEYS[3], KEYS[4], removed, added, expires, litter, KEYS[5], KEYS[6])
return 1
"""
)

# Returns 1 if it wrote. Times move only forward. PEXPIRE comes first because a full server allows
# it, and then also allows the other writes of the script: reading must work without memory.
TOUCH: Final = Script(
    f"""
local expected, now, times, ttl, removed, added, until_, litter = unpack(ARGV)
local current = head(KEYS[1])
if version(current) ~= expected or #current < {HEAD_SIZE} or expired(current, now) then
    return 0
end
local activity, expires = string.sub(times, 1, 8), string.sub(times, 9)
if number(current, {TIMES_OFFSET}) > number(activity, 0) then
    activity = string.sub(current, {TIMES_OFFSET + 1}, {TIMES_OFFSET + 8})
end
local is_later = expiry(current) <= number(expires, 0)
if is_later then
    redis.call('PEXPIRE', KEYS[1], ttl)
else
    expires = string.sub(current, {TIMES_OFFSET + 9}, {TIMES_OFFSET + 16})
end
redis.call('SETRANGE', KEYS[1], {TIMES_OFFSET}, activity .. expires)
if is_later and expiry(current) ~= tonumber(until_) then
    move(KEYS[2], KEYS[3], removed, added, until_, litter)
end
return 1
"""
)

# The first argument is the number of ids; then come the ids, whose keys come before those of the
# indexes, and the marks of this site. Returns the member that each record had; empty if there was
# no record, or a tombstone or a record of another site, which stay. A value that is not a string
# (pcall gives an error then) is deleted like any other rubbish. The user follows the head, as
# MessagePack.
DELETE: Final = Script(
    f"""
local function is_own(site)
    for i = ARGV[1] + 2, #ARGV do
        if site == ARGV[i] then return true end
    end
    return false
end
local function delete(key, id)
    local start = redis.pcall('GETRANGE', key, 0, {START_SIZE - 1})
    local is_record = type(start) == 'string' and #start >= {HEAD_SIZE + 2}
        and string.byte(start, 1) == {FORMAT}
        and string.byte(start, {_STATE_OFFSET + 1}) < {len(State)}
    if is_record and string.byte(start, {_STATE_OFFSET + 1}) ~= {State.LIVE.value} then
        return ''
    end
    local site = string.sub(start, {SITE_OFFSET + 1}, {SITE_OFFSET + SITE_SIZE})
    if is_record and not is_own(site) then
        return ''
    end
    redis.call('DEL', key)
    if not is_record then return '' end
    local at = {HEAD_SIZE + 2}
    local kind, size = string.byte(start, at), nil
    if kind >= 0xa0 and kind <= 0xbf then
        size = kind - 0xa0
    elseif kind == 0xd9 or kind == 0xda then
        size = string.byte(start, at + 1) or 0
        if kind == 0xda then size = size * 256 + (string.byte(start, at + 2) or 0) end
        at = at + kind - 0xd8
    end
    return size and id .. ':' .. string.sub(start, at + 1, at + size) or id
end
local ids, members = tonumber(ARGV[1]), {{}}
for i = 1, ids do
    local member = delete(KEYS[i], ARGV[i + 1])
    if member ~= '' then
        for at = ids + 1, #KEYS, 2 do unlist(KEYS[at], KEYS[at + 1], member) end
    end
    members[i] = member
end
return members
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

# --- The index by itself; its two sets are the keys -------------------------------------------

MOVE: Final = Script(
    """
local removed, added, expires, litter = unpack(ARGV)
move(KEYS[1], KEYS[2], removed, added, expires, litter, KEYS[3], KEYS[4])
"""
)

# Arguments are members, each followed by when it expires. A full server refuses members that are
# new, of which there may be very many, before anything is written.
LIST: Final = Script(
    f"""
local function is_listed(member)
    return redis.call('ZSCORE', KEYS[1], member)
        and (#member <= {ID_SIZE} or redis.call('ZSCORE', KEYS[2], by_user(member)))
end
local listed = {{}}
for i = 1, #ARGV, 2 do
    if is_listed(ARGV[i]) then
        table.insert(listed, i)
    else
        list(KEYS[1], KEYS[2], ARGV[i], ARGV[i + 1])
    end
end
allow_when_full(KEYS[1])
for _, i in ipairs(listed) do redis.call('ZADD', KEYS[1], ARGV[i + 1], ARGV[i]) end
"""
)

# Arguments come in threes: a member, its score as it was read, and when it expires; if that is
# empty, the member is removed. A member that has moved since is left alone: its record may be back,
# or have been touched. Returns how many members were removed.
HEAL: Final = Script(
    """
local gone = 0
allow_when_full(KEYS[1])
for i = 1, #ARGV, 3 do
    local member, seen, expires = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if (redis.call('ZSCORE', KEYS[1], member) or '') == seen then
        if expires == '' then
            unlist(KEYS[1], KEYS[2], member)
            gone = gone + 1
        else
            list(KEYS[1], KEYS[2], member, expires)
        end
    end
end
return gone
"""
)

# The two scripts for pages return members, or ids, with scores; nothing if the set is incomplete.
# Members of the same moment come in descending order of their bytes. Those whose score is not above
# ``floor`` are left out.
PAGE: Final = Script(
    f"""
local from, after, limit, floor = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
if not is_complete(KEYS[1]) then return false end
local function is_before(id)
    for i = 1, {ID_SIZE} do
        local mine, theirs = string.byte(id, i), string.byte(after, i)
        if mine ~= theirs then return mine < theirs end
    end
    return false
end
local found, offset = {{}}, 0
repeat
    local some = redis.call(
        'ZREVRANGEBYSCORE', KEYS[1], from, '(' .. floor, 'WITHSCORES', 'LIMIT', offset, limit
    )
    for i = 1, #some, 2 do
        if after == '' or some[i + 1] ~= from or is_before(some[i]) then
            table.insert(found, some[i])
            table.insert(found, some[i + 1])
        end
    end
    offset = offset + limit
until #some < 2 * limit or #found >= 2 * limit
return found
"""
)

# Returns the last id that was looked at, if there are others, and up to ``limit`` pairs. The
# members of a user are not in the order of their expiry, so those that have expired are looked at:
# up to ``most`` in one call, and only once, because litter is removed. A server that refuses that
# can still be read. Ids of a user whose name continues after a NUL are returned as well; they are
# too long.
PAGE_OF_USER: Final = Script(
    """
local user, at, limit, floor, litter, most = unpack(ARGV)
if not (is_complete(KEYS[1]) and is_complete(KEYS[2])) then return false end
limit, floor, litter, most = tonumber(limit), tonumber(floor), tonumber(litter), tonumber(most)
local first = (at == '' and '[' or '(') .. user .. '\\0' .. at
local found, looks, some = {}, 0, nil
repeat
    some = redis.call(
        'ZRANGEBYLEX', KEYS[2], first, '(' .. user .. '\\1', 'LIMIT', 0, limit + 1
    )
    for _, entry in ipairs(some) do
        local id = string.sub(entry, #user + 2)
        local member = id .. ':' .. user
        local score = redis.call('ZSCORE', KEYS[1], member)
        local expires = tonumber(score or '+inf')
        if expires > floor then
            if #found == 2 * limit then return {at, found} end
            table.insert(found, id)
            table.insert(found, score or '')
        elseif expires <= litter then
            redis.pcall('ZREM', KEYS[1], member)
            redis.pcall('ZREM', KEYS[2], entry)
        end
        at = id
    end
    looks = looks + #some
    first = '(' .. user .. '\\0' .. at
until #some <= limit or looks >= most
return {#some > limit and at or '', found}
"""
)

COUNT: Final = Script(
    """
if not is_complete(KEYS[1]) then return false end
return redis.call('ZCOUNT', KEYS[1], '(' .. ARGV[1], '+inf')
"""
)

EXPIRED: Final = Script(
    """
return redis.call(
    'ZRANGEBYSCORE', KEYS[1], '(-inf', ARGV[1], 'WITHSCORES', 'LIMIT', 0, ARGV[2]
)
"""
)

# The key of the builder's scripts is its lock; the first argument is the token that it stores
# there. `SEIZE` takes the lock from another builder. The other three do nothing to that lock.
_SEIZE: Final = """
redis.call('DEL', KEYS[1])  -- A full server allows SET after that.
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
return 1
"""

SEIZE: Final = Script(_SEIZE)

TAKE: Final = Script(
    f"""
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
{_SEIZE}
"""
)

HOLD: Final = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])
"""
)

RELEASE: Final = Script(
    """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])
"""
)

# In the next three, the last key is the set of the sites that have an index, and the argument the
# mark of the index. A mark that is not in the set has no records but those whose writes have
# listed them, so its index needs not be built. That is so because `NOTE_SITES` makes the set with
# the marks of all records that there are.
_COMPLETE: Final = """
allow_when_full(KEYS[1])
redis.call('ZADD', KEYS[1], '-inf', '')
redis.call('ZADD', KEYS[2], 0, '')
redis.call('SADD', KEYS[3], ARGV[1])
return 1
"""

COMPLETE: Final = Script(_COMPLETE)

# Returns 1 if the index is that of a new mark, and so is complete.
BEGIN: Final = Script(
    f"""
if redis.call('EXISTS', KEYS[3]) == 0 or redis.call('SISMEMBER', KEYS[3], ARGV[1]) == 1 then
    return 0
end
{_COMPLETE}
"""
)

# The arguments are the marks of all records. Does nothing if the set is there.
NOTE_SITES: Final = Script(
    """
if redis.call('EXISTS', KEYS[1]) == 1 then return end
allow_when_full(KEYS[1])
for _, site in ipairs(ARGV) do redis.call('SADD', KEYS[1], site) end
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

MAY_WRITE_INDEX: Final = Script(
    f"""
local probe = table.remove(KEYS)
local commands = {{
    {{'SMEMBERS', probe}},
    {{'SISMEMBER', probe, 'x'}},
    {{'EXISTS', probe}},
    {{'SADD', probe, 'x'}},
    {{'PEXPIRE', probe, 0}},
    {{'DEL', probe}},
}}
for _, set in ipairs(KEYS) do
    table.insert(commands, {{'ZADD', set, 'XX', 0, 'x'}})
    table.insert(commands, {{'ZREM', set, 'x'}})
    table.insert(commands, {{'ZSCORE', set, 'x'}})
    table.insert(commands, {{'ZRANGEBYSCORE', set, 1, 0}})
    table.insert(commands, {{'ZREVRANGEBYSCORE', set, 0, 1}})
    table.insert(commands, {{'ZRANGEBYLEX', set, '[b', '[a'}})
    table.insert(commands, {{'ZRANGE', set, 1, 0}})
    table.insert(commands, {{'ZCOUNT', set, 1, 0}})
    table.insert(commands, {{'ZCARD', set}})
end
{_TRY}
"""
)
