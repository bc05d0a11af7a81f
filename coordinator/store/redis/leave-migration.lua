-- Drives a migration no longer; harmless when another does.
--
-- KEYS   migration:ID
-- ARGV   ID, session
-- Reply  1, or false: it did not drive it
local key = prefix .. 'migration:' .. ARGV[1]
if redis.call('HGET', key, 'driver') ~= ARGV[2] then
  return false
end
redis.call('HSET', key, 'driver', '')
redis.call('HINCRBY', key, 'version', 1)
return 1
