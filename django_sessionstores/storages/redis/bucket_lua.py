"""The functions for the index that each script begins with.

An index has a directory and buckets for each site and tag. A bucket is a sorted set of members by
the moment of their expiry, small enough for Redis' compact encoding. A full bucket becomes two, by
the next bit of its members, and two that are nearly empty become one: these are the leaves of a
binary tree, numbered from 1 at the root; the children of n are 2n and 2n + 1.

The directory is a sorted set as well. It has the number of each bucket, by a moment before which no
member of the bucket expires ('+inf' if the bucket is empty), and two members with scores that are
not positive:

* ``c`` has the number of all members, negated.
* ``s`` says whether the index has all sessions with this tag: -1 if so. A directory that the server
  has evicted or that is new lacks it, or has 0. -2 says that a bucket was evicted.
"""

from __future__ import annotations

from typing import Final

from .keys import PLACE_BITS

MOST: Final = 128
"""How many members make a bucket two. Redis keeps no more than this many compactly by default."""
_FEW: Final = MOST // 4
_CLEARING: Final = 4
"""Of how many members that are added one removes others. Looking for them is a command."""
_DEPTH: Final = 45
"""The levels of the tree. The number of a bucket is exact, and written out, up to this one."""

BUCKET_LUA: Final = f"""
local function place_of(member)
    local a, b, c, d, e, f = string.byte(member, 1, 6)
    return (((((a % 128) * 256 + b) * 256 + c) * 256 + d) * 256 + e) * 256 + f
end
local function name_of(node)
    return string.format('%.0f', node)
end
local function bucket_of(directory, node)
    return directory .. ':' .. name_of(node)
end
-- Returns the number of the bucket for a place, its score and its depth; nothing if there is no
-- directory, or a damaged one. Most buckets are as deep as their number tells.
local function find(directory, place)
    local size = redis.call('ZCARD', directory)
    if size == 0 then return end
    local _, guess = math.frexp(math.max(1, size - 2))
    for step = 0, {2 * _DEPTH} do
        local depth = guess - 1 + (step % 2 == 0 and -step / 2 or (step + 1) / 2)
        if depth >= 0 and depth <= {_DEPTH} then
            local node = 2 ^ depth + math.floor(place / 2 ^ ({PLACE_BITS} - depth))
            local score = redis.call('ZSCORE', directory, name_of(node))
            if score then return node, tonumber(score), depth end
        end
    end
end
local function begin(directory, state)
    redis.call('ZADD', directory, 0, 'c', state, 's', '+inf', 1)
    redis.call('DEL', bucket_of(directory, 1))  -- What is left of one that was evicted.
end
local function distrust(directory)
    redis.call('ZADD', directory, -2, 's')
end
local function fill(directory, node, members)
    local bucket = bucket_of(directory, node)
    redis.call('DEL', bucket)
    if #members > 0 then redis.call('ZADD', bucket, unpack(members)) end
    redis.call('ZADD', directory, members[1] or '+inf', name_of(node))
end
local function split(directory, node, depth)
    local bucket, parts = bucket_of(directory, node), {{[0] = {{}}, {{}}}}
    local all = redis.call('ZRANGE', bucket, 0, -1, 'WITHSCORES')
    for i = 1, #all, 2 do
        local bit = math.floor(place_of(all[i]) / 2 ^ ({PLACE_BITS - 1} - depth)) % 2
        table.insert(parts[bit], all[i + 1])
        table.insert(parts[bit], all[i])
    end
    redis.call('DEL', bucket)
    redis.call('ZREM', directory, name_of(node))
    fill(directory, 2 * node, parts[0])
    fill(directory, 2 * node + 1, parts[1])
end
local function unite(directory, node, size)
    local other = node + (node % 2 == 0 and 1 or -1)
    local score = redis.call('ZSCORE', directory, name_of(other))
    local others = score and redis.call('ZCARD', bucket_of(directory, other))
    if not score or size + others > {MOST // 2} then return end
    if others == 0 and score ~= 'inf' then return distrust(directory) end
    local members, first = {{}}, '+inf'
    for _, each in ipairs({{node, other}}) do
        local all = redis.call('ZRANGE', bucket_of(directory, each), 0, -1, 'WITHSCORES')
        for i = 1, #all, 2 do
            table.insert(members, all[i + 1])
            table.insert(members, all[i])
        end
        if all[2] and tonumber(all[2]) < tonumber(first) then first = all[2] end
        redis.call('DEL', bucket_of(directory, each))
        redis.call('ZREM', directory, name_of(each))
    end
    fill(directory, math.floor(node / 2), members)
    redis.call('ZADD', directory, first, name_of(math.floor(node / 2)))
end
-- Some members of a bucket were removed.
local function shrink(directory, node, number)
    local total = tonumber(redis.call('ZINCRBY', directory, number, 'c'))
    local size = redis.call('ZCARD', bucket_of(directory, node))
    if size == 0 then redis.call('ZADD', directory, '+inf', name_of(node)) end
    if total == 0 and tonumber(redis.call('ZSCORE', directory, 's')) == 0 then
        redis.call('DEL', directory)
    elseif size < {_FEW} and node > 1 then
        unite(directory, node, size)
    end
end
local function remove(directory, member)
    local node = find(directory, place_of(member))
    if not node or redis.call('ZREM', bucket_of(directory, node), member) == 0 then return 0 end
    shrink(directory, node, 1)
    return 1
end
-- Removes up to so many members that expire at a moment or before it.
local function clear(directory, moment, most)
    local gone = 0
    while gone < most do
        local name = redis.call('ZRANGEBYSCORE', directory, '(0', moment, 'LIMIT', 0, 1)[1]
        if not name then break end
        local bucket = directory .. ':' .. name
        local old = redis.call(
            'ZRANGEBYSCORE', bucket, '-inf', moment, 'LIMIT', 0, most - gone
        )
        if #old > 0 then redis.call('ZREM', bucket, unpack(old)) end
        local first = redis.call('ZRANGE', bucket, 0, 0, 'WITHSCORES')
        redis.call('ZADD', directory, first[2] or '+inf', name)
        if #old > 0 then
            gone = gone + #old
            shrink(directory, tonumber(name), #old)
        elseif #first == 0 then
            distrust(directory)
        end
    end
    return gone
end
-- One of so many members that are added removes twice as many that expired long ago, so that no
-- purge is needed. The last byte of a member is random.
local function add(directory, member, expires, litter)
    local node, score, depth = find(directory, place_of(member))
    if not node then
        -- Not without need: a full server allows what comes after a deletion.
        if redis.call('EXISTS', directory) == 1 then redis.call('DEL', directory) end
        begin(directory, 0)
        node, score, depth = 1, math.huge, 0
    end
    local bucket, is_split = bucket_of(directory, node), false
    if redis.call('ZADD', bucket, expires, member) == 1 then
        local size = redis.call('ZCARD', bucket)
        redis.call('ZINCRBY', directory, -1, 'c')
        if size == 1 and score < math.huge then distrust(directory) end
        is_split = size >= {MOST} and depth < {_DEPTH}
        if is_split then split(directory, node, depth) end
    end
    if not is_split and tonumber(expires) < score then
        redis.call('ZADD', directory, expires, name_of(node))
    end
    if litter ~= '' and string.byte(member, -1) % {_CLEARING} == 0 then
        clear(directory, litter, {2 * _CLEARING})
    end
end
local function score_of(directory, member)
    local node = find(directory, place_of(member))
    return node and redis.call('ZSCORE', bucket_of(directory, node), member) or ''
end
-- What a write does to the index: for each key from this one on, a member, the moment of its expiry
-- (empty if it is removed), and the moment before which members are litter.
local function move(key, argument)
    for i = key, #KEYS do
        local member, expires, litter = ARGV[argument], ARGV[argument + 1], ARGV[argument + 2]
        if expires == '' then
            remove(KEYS[i], member)
        else
            add(KEYS[i], member, expires, litter)
        end
        argument = argument + 3
    end
end
-- A full server refuses writes that may need memory, unless the script has written before. This
-- writes nothing, and is for those that need little memory or none.
local function allow_when_full(key)
    redis.call('ZREM', key, '-')
end
"""
