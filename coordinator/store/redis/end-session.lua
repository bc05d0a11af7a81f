-- Ends a session: what it drove may be taken at once.
--
-- KEYS   sessions
-- ARGV   session ID
-- Reply  1
local sessions, now = prefix .. 'sessions', nowMs()
local untilMs = redis.call('ZSCORE', sessions, ARGV[1])
if untilMs and tonumber(untilMs) > now then
  redis.call('ZADD', sessions, decimal(now), ARGV[1])
end
return 1
