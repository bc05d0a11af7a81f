-- Forgets the closed ones among those that are older than the newest `keep`.
--
-- KEYS   migration:ID, migrations, migrations:unended, migrations:open
-- ARGV   how many are kept
-- Reply  1
local old = redis.call('ZRANGE', prefix .. 'migrations', 0, -1 - tonumber(ARGV[1]))
for _, id in ipairs(old) do
  if not redis.call('ZSCORE', prefix .. 'migrations:open', id) then
    index('migrations', id, false)
    index('migrations:unended', id, false)
    redis.call('DEL', prefix .. 'migration:' .. id)
  end
end
return 1
