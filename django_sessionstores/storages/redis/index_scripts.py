"""The scripts that read, repair and rebuild the index; those of sessions are in `scripts`.

The first key is a directory, unless a comment says otherwise; see `bucket_lua`.
"""

from __future__ import annotations

from typing import Final

from .keys import MEMBER_SIZE, PLACES
from .scripts import RECORD_LUA, Script

COMPLETE_STATE: Final = -1
LOST_STATE: Final = -2
"""A bucket is missing, because the server has evicted it."""

# Returns the state of the directory, the number of members, the first place that was not looked at,
# and members with their scores: whole buckets, in the order of places, until there are ``limit``
# behind the first one. Members whose score is not above ``floor`` are left out, and those that do
# not begin with ``prefix``.
PAGE: Final = Script(
    f"""
local place, stop, limit = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local floor, prefix = ARGV[4], ARGV[5]
local state = redis.call('ZSCORE', KEYS[1], 's')
if not state then return {{0, 0, ARGV[2], {{}}}} end
local found, most = {{}}, nil
repeat
    local node, score, depth = find(KEYS[1], place)
    if not node then return {{{LOST_STATE}, 0, ARGV[2], {{}}}} end
    local bucket = bucket_of(KEYS[1], node)
    local some = redis.call('ZRANGEBYSCORE', bucket, '(' .. floor, '+inf', 'WITHSCORES')
    if #some == 0 and score < math.huge and redis.call('EXISTS', bucket) == 0 then
        return {{{LOST_STATE}, 0, ARGV[2], {{}}}}
    end
    for i = 1, #some, 2 do
        if string.sub(some[i], 1, #prefix) == prefix then
            table.insert(found, some[i])
            table.insert(found, some[i + 1])
        end
    end
    most = most or #found + 2 * limit
    place = (node - 2 ^ depth + 1) * {PLACES} / 2 ^ depth
until place >= stop or #found >= most
local total = -tonumber(redis.call('ZSCORE', KEYS[1], 'c'))
return {{tonumber(state), total, name_of(place), found}}
"""
)

_LOOK_FOR_LOST: Final = """
local function is_lost(directory)
    local names = redis.call('ZRANGEBYSCORE', directory, '(0', '(+inf')
    for i, name in ipairs(names) do names[i] = directory .. ':' .. name end
    for i = 1, #names, 1000 do
        local last = math.min(#names, i + 999)
        if redis.call('EXISTS', unpack(names, i, last)) < last - i + 1 then return true end
    end
    return false
end
"""

# Returns the state, the number of members that expire after a moment, and that of buckets in use.
# The second argument says whether to look for buckets that are missing, which takes longest.
COUNT: Final = Script(
    f"""
{_LOOK_FOR_LOST}
local state = redis.call('ZSCORE', KEYS[1], 's')
if not state then return {{0, 0, 0}} end
if ARGV[2] == '1' and is_lost(KEYS[1]) then return {{{LOST_STATE}, 0, 0}} end
local total = -tonumber(redis.call('ZSCORE', KEYS[1], 'c'))
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(0', ARGV[1])) do
    total = total - redis.call('ZCOUNT', KEYS[1] .. ':' .. name, '-inf', ARGV[1])
end
return {{tonumber(state), total, redis.call('ZCOUNT', KEYS[1], '(0', '(+inf')}}
"""
)

# Returns how many bytes a key takes; with an argument, those of a directory and its buckets.
# Returns 0 for a key that is not there, or if the user has no right to ask.
MEASURE: Final = Script(
    """
local function bytes_of(key)
    local size = redis.pcall('MEMORY', 'USAGE', key)
    return type(size) == 'number' and size or 0
end
local total = bytes_of(KEYS[1])
if ARGV[1] and total > 0 then
    for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(0', '(+inf')) do
        total = total + bytes_of(KEYS[1] .. ':' .. name)
    end
end
return total
"""
)

# Returns how many members were removed.
PURGE: Final = Script("return clear(KEYS[1], ARGV[1], tonumber(ARGV[2]))")

# Follows a write of a session that has another tag; each key is a directory.
MOVE: Final = Script("move(1, 1)")

# Arguments come in threes: a member, its score as it was read, and when it expires; if that is
# empty, the member is removed. A member that has moved since is left alone: its record may be back,
# or have been touched. Returns how many members were removed.
HEAL: Final = Script(
    """
local gone = 0
allow_when_full(KEYS[1])
for i = 1, #ARGV, 3 do
    local member, seen, expires = ARGV[i], ARGV[i + 1], ARGV[i + 2]
    if score_of(KEYS[1], member) == seen then
        if expires == '' then
            gone = gone + remove(KEYS[1], member)
        else
            add(KEYS[1], member, expires, '')
        end
    end
end
return gone
"""
)

# Arguments are members, each followed by when it expires. Those that are there already need no
# memory. A full server refuses the others, of which there may be very many.
LIST: Final = Script(
    """
for i = 1, #ARGV, 2 do
    local score = score_of(KEYS[1], ARGV[i])
    if score == '' or tonumber(score) < tonumber(ARGV[i + 1]) then
        add(KEYS[1], ARGV[i], ARGV[i + 1], '')
    end
end
"""
)

# The first keys are the directories of sessions of this site, one for each of its marks, and the
# others those of records. The arguments are the number of marks and the marks. Lists the live
# records of this site. Returns four values for each: its number among the records, its mark, its
# user (0 if nobody is signed in) and when it expires; and then the marks of other sites. See `LIST`
# for a full server.
LIST_RECORDS: Final = Script(
    f"""
{RECORD_LUA}
local marks, found, others = tonumber(ARGV[1]), {{}}, {{}}
local function list(number, start, site)
    for mark = 1, marks do
        if site == ARGV[mark + 1] then
            local member = string.sub(KEYS[marks + number], -{MEMBER_SIZE})
            local score, expires = score_of(KEYS[mark], member), expiry(start)
            local moment = string.format('%.0f', expires)
            if tonumber(score) ~= expires then add(KEYS[mark], member, moment, '') end
            for _, each in ipairs({{number, site, user_of(start) or 0, moment}}) do
                table.insert(found, each)
            end
            return true
        end
    end
end
for number = 1, #KEYS - marks do
    local start = start_of(KEYS[marks + number])
    if start and is_live(start) then
        local site = site_of(start)
        if site == '\0\0\0\0' then site = ARGV[2] end
        if not list(number, start, site) then table.insert(others, site) end
    end
end
return {{found, others}}
"""
)

# Prepares a directory, if there is one, for a rebuild: what is missing has no score.
PREPARE: Final = Script(
    """
if not redis.call('ZSCORE', KEYS[1], 's') then return end
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(0', '(+inf')) do
    if redis.call('EXISTS', KEYS[1] .. ':' .. name) == 0 then
        allow_when_full(KEYS[1])
        redis.call('ZADD', KEYS[1], '+inf', name)
    end
end
"""
)

# Returns 1, and notes that the index is complete, unless the server has dropped a part of it since
# `PREPARE`. The argument says whether members were listed, so that the directory must be there.
COMPLETE: Final = Script(
    f"""
{_LOOK_FOR_LOST}
allow_when_full(KEYS[1])
if not redis.call('ZSCORE', KEYS[1], 's') then
    if ARGV[1] == '1' then return 0 end
    begin(KEYS[1], {COMPLETE_STATE})
    return 1
end
if is_lost(KEYS[1]) then return 0 end
local total = 0
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(0', '+inf')) do
    local bucket = KEYS[1] .. ':' .. name
    local first = redis.call('ZRANGE', bucket, 0, 0, 'WITHSCORES')
    total = total + redis.call('ZCARD', bucket)
    redis.call('ZADD', KEYS[1], first[2] or '+inf', name)
end
redis.call('ZADD', KEYS[1], -total, 'c', {COMPLETE_STATE}, 's')
return 1
"""
)

# The key of these scripts is the lock of the builder; the first argument is the token that it
# stores there. `SEIZE` takes the lock from another builder. The others do nothing to that lock.
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

# The key is the set of the sites that have an index, and the arguments are marks.
NOTE_SITES: Final = Script(
    """
redis.call('SREM', KEYS[1], '-')  -- A full server allows SADD after that.
for _, site in ipairs(ARGV) do redis.call('SADD', KEYS[1], site) end
"""
)
