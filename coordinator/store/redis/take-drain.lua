-- Drives a drain from now on, unless another live session does.
--
-- KEYS   drain:ID, sessions
-- ARGV   ID, session
-- Reply  {'taken', version, open, driver, drain, plan}, {'driven', session} or {'unknown'}
local key = prefix .. 'drain:' .. ARGV[1]
local driver = redis.call('HGET', key, 'driver')
if not driver then
  return { 'unknown' }
end
local by = drivenBy(driver, ARGV[2])
if by then
  return { 'driven', by }
end
redis.call('HSET', key, 'driver', ARGV[2])
redis.call('HINCRBY', key, 'version', 1)
return { 'taken', unpack(redis.call('HMGET', key, 'version', 'open', 'driver', 'drain', 'plan')) }
