-- Writes the next version of a migration if the stored one is the version that was read. Driver and term stay.
--
-- KEYS   migration:ID, claims, migrations:open, migrations:unended
-- ARGV   ID, version that was read, open, claim, through (1 or 0), migration (protobuf), plan (JSON)
-- Reply  1, or false: it was not
local id, version, isOpen, claim, through = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local key = prefix .. 'migration:' .. id
local found = redis.call('HMGET', key, 'version', 'machine')
if found[1] ~= version then
  return false
end
local holder = redis.call('HGET', prefix .. 'claims', found[2])
if claim == '1' then
  if holder and holder ~= id then
    return redis.error_reply('CLAIMED the Machine belongs to migration ' .. holder)
  end
  redis.call('HSET', prefix .. 'claims', found[2], id)
elseif holder == id then
  redis.call('HDEL', prefix .. 'claims', found[2])
end
redis.call('HSET', key, 'version', decimal(tonumber(version) + 1), 'open', isOpen, 'claim', claim, 'migration', ARGV[6],
  'plan', ARGV[7])
index('migrations:open', id, isOpen == '1')
index('migrations:unended', id, through == '0')
return 1
