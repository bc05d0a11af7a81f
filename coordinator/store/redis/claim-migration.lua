-- Writes a new migration that claims its Machine. Repeating it is harmless.
--
-- KEYS   migration:ID (hash), claims (hash: Machine to migration), migrations, migrations:open, migrations:unended (sorted sets)
-- ARGV   ID, Machine, migration whose claim passes to it or '', migration whose lock it goes on under or '', version of that one,
--        then the fields version, open, claim, through (1 or 0), driver, term, migration (protobuf), plan (JSON)
-- Reply  {'claimed'}, {'busy', migration that has the claim} or {'changed'}
local id, machine, takesOver, inherits, inheritsVersion = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local key = prefix .. 'migration:' .. id
if redis.call('EXISTS', key) == 1 then
  return { 'claimed' }
end
local holder = redis.call('HGET', prefix .. 'claims', machine)
if holder and holder ~= takesOver then
  return { 'busy', holder }
end
if inherits ~= '' then
  if redis.call('HGET', prefix .. 'migration:' .. inherits, 'version') ~= inheritsVersion then
    return { 'changed' }
  end
  -- Whoever was about to free the lock looks again.
  redis.call('HINCRBY', prefix .. 'migration:' .. inherits, 'version', 1)
end
if takesOver ~= '' and redis.call('HGET', prefix .. 'migration:' .. takesOver, 'claim') == '1' then
  redis.call('HSET', prefix .. 'migration:' .. takesOver, 'claim', '0')
  redis.call('HINCRBY', prefix .. 'migration:' .. takesOver, 'version', 1)
end
redis.call('HSET', key, 'machine', machine, 'version', ARGV[6], 'open', ARGV[7], 'claim', ARGV[8], 'driver', ARGV[10],
  'term', ARGV[11], 'migration', ARGV[12], 'plan', ARGV[13])
index('migrations', id, true)
index('migrations:open', id, ARGV[7] == '1')
index('migrations:unended', id, ARGV[9] == '0')
if ARGV[8] == '1' then
  redis.call('HSET', prefix .. 'claims', machine, id)
elseif holder then
  redis.call('HDEL', prefix .. 'claims', machine)
end
return { 'claimed' }
