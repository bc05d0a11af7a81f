-- Forgets a destroyed Machine.
--
-- KEYS   placement:MACHINE, placements, placements:host:HOST, placements:network:NETWORK, placements:app:APP
-- ARGV   Machine ID
-- Reply  1
local machine = ARGV[1]
local known = redis.call('HMGET', prefix .. 'placement:' .. machine, 'host', 'network', 'app')
if known[1] then
  redis.call('SREM', prefix .. 'placements', machine)
  redis.call('SREM', prefix .. 'placements:host:' .. known[1], machine)
  redis.call('SREM', prefix .. 'placements:network:' .. known[2], machine)
  redis.call('SREM', prefix .. 'placements:app:' .. known[3], machine)
  redis.call('DEL', prefix .. 'placement:' .. machine)
end
return 1
