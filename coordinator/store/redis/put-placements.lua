-- Records placements unless higher epochs are known; of one host it forgets those that are not listed any more.
--
-- KEYS   placement:MACHINE (hash), placements, placements:host:HOST, placements:network:NETWORK, placements:app:APP (sets),
--        claims (hash: Machine to migration)
-- ARGV   host whose other placements are forgotten ('' = none are), before when they were last seen in ms,
--        then for each placement: Machine, host, epoch, network, app, when seen in ms, Machine as protobuf
-- Reply  1
local hostId, forgetBeforeMs = ARGV[1], tonumber(ARGV[2])

local function indexes(machine, host, network, app, command)
  redis.call(command, prefix .. 'placements', machine)
  redis.call(command, prefix .. 'placements:host:' .. host, machine)
  redis.call(command, prefix .. 'placements:network:' .. network, machine)
  redis.call(command, prefix .. 'placements:app:' .. app, machine)
end

-- Decimal texts of any length.
local function isHigher(a, b)
  return #a > #b or (#a == #b and a > b)
end

local listed = {}
for at = 3, #ARGV, 7 do
  local machine, host, epoch, network, app = ARGV[at], ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  listed[machine] = true
  local key = prefix .. 'placement:' .. machine
  local known = redis.call('HMGET', key, 'host', 'network', 'app', 'epoch')
  if not (known[4] and isHigher(known[4], epoch)) then
    if known[4] then
      indexes(machine, known[1], known[2], known[3], 'SREM')
    end
    indexes(machine, host, network, app, 'SADD')
    redis.call('HSET', key, 'host', host, 'epoch', epoch, 'network', network, 'app', app, 'seen_ms', ARGV[at + 5],
      'machine', ARGV[at + 6])
  end
end
if hostId ~= '' then
  for _, machine in ipairs(redis.call('SMEMBERS', prefix .. 'placements:host:' .. hostId)) do
    local key = prefix .. 'placement:' .. machine
    local known = redis.call('HMGET', key, 'host', 'network', 'app', 'seen_ms')
    local isHeld = redis.call('HEXISTS', prefix .. 'claims', machine) == 1
    if not listed[machine] and not isHeld and tonumber(known[4]) < forgetBeforeMs then
      indexes(machine, known[1], known[2], known[3], 'SREM')
      redis.call('DEL', key)
    end
  end
end
return 1
