-- Writes the row of a host if it is still the one that was read; a new host gets a number.
--
-- KEYS   hosts (hash: ID to JSON), numbers:host, used:host
-- ARGV   host ID, row that was read ('' = none), new row, candidates for its number in the order of preference
-- Reply  {'changed'}: read again; {'written', number}; or {'unnumbered'}: all candidates are used
local id, before, after = ARGV[1], ARGV[2], ARGV[3]
if (redis.call('HGET', prefix .. 'hosts', id) or '') ~= before then
  return { 'changed' }
end
local number = numberOf('host', id, 4)
if not number then
  return { 'unnumbered' }
end
redis.call('HSET', prefix .. 'hosts', id, after)
return { 'written', number }
