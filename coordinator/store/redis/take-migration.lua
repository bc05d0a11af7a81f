-- Drives a migration from now on, unless another live session does: driver and fresh term in one change.
--
-- KEYS   migration:ID, sessions, term (the highest ever)
-- ARGV   ID, session, term to be above, random number below 65536
-- Reply  {'taken', version, open, claim, driver, term, migration, plan}, {'driven', session} or {'unknown'}
local id, session, above, random = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local key = prefix .. 'migration:' .. id
local driver = redis.call('HGET', key, 'driver')
if not driver then
  return { 'unknown' }
end
local by = drivenBy(driver, session)
if by then
  return { 'driven', by }
end
local highest = math.max(tonumber(redis.call('GET', prefix .. 'term') or '0'), above)
-- The low 16 bits are random: two stores that know nothing of each other do not mint equal terms.
local term = (math.floor(highest / 65536) + 1) * 65536 + random
if term >= 2 ^ 53 then
  return redis.error_reply('EXHAUSTED there is no term above ' .. decimal(highest) .. ' and below 2^53')
end
redis.call('SET', prefix .. 'term', decimal(term))
redis.call('HSET', key, 'driver', session, 'term', decimal(term))
redis.call('HINCRBY', key, 'version', 1)
return { 'taken', unpack(redis.call('HMGET', key, 'version', 'open', 'claim', 'driver', 'term', 'migration', 'plan')) }
