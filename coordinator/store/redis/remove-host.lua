-- Forgets a host; its number stays used.
--
-- KEYS   hosts, numbers:host
-- ARGV   host ID
-- Reply  1, or false: there was none
redis.call('HDEL', prefix .. 'numbers:host', ARGV[1])
return redis.call('HDEL', prefix .. 'hosts', ARGV[1]) == 1 and 1
