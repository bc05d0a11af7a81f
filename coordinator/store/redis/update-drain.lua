-- Writes the next version of a drain if the stored one is the version that was read. The driver stays.
--
-- KEYS   drain:ID, drains:open
-- ARGV   ID, version that was read, open (1 or 0), drain (protobuf), plan (JSON)
-- Reply  1, or false: it was not
local id, version, isOpen = ARGV[1], ARGV[2], ARGV[3]
local key = prefix .. 'drain:' .. id
local found = redis.call('HMGET', key, 'version', 'host')
if found[1] ~= version then
  return false
end
local other = redis.call('HGET', prefix .. 'drains:open', found[2])
if isOpen == '1' then
  if other and other ~= id then
    return redis.error_reply('CLAIMED the host is drained by ' .. other)
  end
  redis.call('HSET', prefix .. 'drains:open', found[2], id)
elseif other == id then
  redis.call('HDEL', prefix .. 'drains:open', found[2])
end
redis.call('HSET', key, 'version', decimal(tonumber(version) + 1), 'open', isOpen, 'drain', ARGV[4], 'plan', ARGV[5])
return 1
