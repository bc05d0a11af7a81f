-- Writes a new drain, one open drain a host, and forgets the oldest closed ones. Repeating it is harmless.
--
-- KEYS   drain:ID (hash), drains, drains:host:HOST (sorted sets), drains:open (hash: host to drain)
-- ARGV   ID, host, how many drains are kept, then the fields version, open (1 or 0), driver, drain (protobuf), plan (JSON)
-- Reply  {'created'} or {'busy', drain that is open}
local id, host, keep = ARGV[1], ARGV[2], tonumber(ARGV[3])
local key = prefix .. 'drain:' .. id
if redis.call('EXISTS', key) == 1 then
  return { 'created' }
end
local other = redis.call('HGET', prefix .. 'drains:open', host)
if other then
  return { 'busy', other }
end
redis.call('HSET', key, 'host', host, 'version', ARGV[4], 'open', ARGV[5], 'driver', ARGV[6], 'drain', ARGV[7], 'plan', ARGV[8])
index('drains', id, true)
index('drains:host:' .. host, id, true)
if ARGV[5] == '1' then
  redis.call('HSET', prefix .. 'drains:open', host, id)
end
for _, old in ipairs(redis.call('ZRANGE', prefix .. 'drains', 0, -1 - keep)) do
  local found = redis.call('HMGET', prefix .. 'drain:' .. old, 'open', 'host')
  if found[1] == '0' then
    index('drains', old, false)
    index('drains:host:' .. found[2], old, false)
    redis.call('DEL', prefix .. 'drain:' .. old)
  end
end
return { 'created' }
