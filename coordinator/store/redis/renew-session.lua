-- Begins or renews a session, by the server's clock.
--
-- KEYS   sessions (sorted set: ID by end in ms), session-rows (hash: ID to JSON), store
-- ARGV   session ID, its row as JSON, time to live in ms, how long ended ones are kept in ms
-- Reply  1, or false: it had run out
local id, row, ttlMs, keptMs = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local sessions, rows = prefix .. 'sessions', prefix .. 'session-rows'
local now = nowMs()
for _, old in ipairs(redis.call('ZRANGEBYSCORE', sessions, '-inf', decimal(now - keptMs))) do
  redis.call('ZREM', sessions, old)
  redis.call('HDEL', rows, old)
end
local untilMs = redis.call('ZSCORE', sessions, id)
if untilMs and tonumber(untilMs) <= now then
  return false
end
redis.call('ZADD', sessions, decimal(now + ttlMs), id)
redis.call('HSET', rows, id, row)
return 1
