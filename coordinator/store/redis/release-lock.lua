-- Compare-and-delete of a lock; also leaves the line.
--
-- KEYS   locks, line:NETWORK, waiters:NETWORK
-- ARGV   network, migration
-- Reply  1, or false: it did not hold the lock
local network, migration = ARGV[1], ARGV[2]
redis.call('ZREM', prefix .. 'line:' .. network, migration)
redis.call('HDEL', prefix .. 'waiters:' .. network, migration)
local held = redis.call('HGET', prefix .. 'locks', network)
if held and cjson.decode(held).migrationId == migration then
  redis.call('HDEL', prefix .. 'locks', network)
  return 1
end
return false
