-- Grants the lock of a network, or puts the asker in line: higher priority first, then first come first served. Lock, fence and
-- line change together. A lock has no expiry.
--
-- KEYS   locks (hash: network to JSON), fences (hash: network to the highest fence ever), line:NETWORK (sorted set of migrations),
--        waiters:NETWORK (hash: migration to JSON), places (counter)
-- ARGV   network, migration, what the lock says besides its fence (JSON), what the line says (JSON), priority, fence to be above
-- Reply  {'granted', lock} or {'waiting', lock or '', one JSON for each that stands before the asker}
local network, migration, wanted, waiter = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local priority, above = tonumber(ARGV[5]), tonumber(ARGV[6])
local line, waiters = prefix .. 'line:' .. network, prefix .. 'waiters:' .. network
local held = redis.call('HGET', prefix .. 'locks', network)

local function grant(row)
  local fence = math.max(tonumber(redis.call('HGET', prefix .. 'fences', network) or '0'), above) + 1
  row.fence = decimal(fence)
  local lock = cjson.encode(row)
  redis.call('HSET', prefix .. 'fences', network, row.fence)
  redis.call('HSET', prefix .. 'locks', network, lock)
  redis.call('ZREM', line, migration)
  redis.call('HDEL', waiters, migration)
  return { 'granted', lock }
end

if held then
  local row = cjson.decode(held)
  if row.migrationId == migration then
    if tonumber(row.fence) > above then
      return { 'granted', held }
    end
    return grant(row)
  end
end

-- Places rise; a place of a higher priority lies below all of the lower ones. Both fit a double exactly.
local known = redis.call('HGET', waiters, migration)
local place = known and cjson.decode(known).place or redis.call('INCR', prefix .. 'places')
local row = cjson.decode(waiter)
row.place = place
redis.call('HSET', waiters, migration, cjson.encode(row))
redis.call('ZADD', line, decimal(place - priority * 2 ^ 40), migration)
local rank = redis.call('ZRANK', line, migration)
if not held and rank == 0 then
  return grant(cjson.decode(wanted))
end
local reply = { 'waiting', held or '' }
if rank > 0 then
  for _, other in ipairs(redis.call('ZRANGE', line, 0, rank - 1)) do
    reply[#reply + 1] = redis.call('HGET', waiters, other)
  end
end
return reply
