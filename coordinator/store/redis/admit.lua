-- Who this store is: finds out whether its server is still the one whose writes were acknowledged, and makes an empty store a
-- store. Run on each new connection before anything else, and whenever a coordinator asks for the identity.
--
-- KEYS[1]  prefix of all keys
-- ARGV[1]  random text: generation of an empty store, incarnation of a store that another server took over
-- ARGV[2]  generation that the caller last saw, or ''
-- ARGV[3]  run ID of the server that the caller last saw, or ''
-- ARGV[4]  highest revision that the caller ever got from that server
-- Reply    {generation, incarnation, run ID, revision}, or the errors REPLICA and FORMAT
--
-- What a server says after what (redis-server 7.0.15, measured):
--   killed, restarted with its append-only file   new run ID, new replication ID, no second replication ID
--   a first replica attaches                      same run ID, new replication ID, no second one
--   a replica is promoted                         run ID that is new to us, second replication ID = that of the old primary
-- A restart from a snapshot (no append-only file) has a second replication ID, too, and counts as a take-over: it lost writes.
local store = KEYS[1] .. 'store'
local format = '1'
local random, seenGeneration, seenRun, seenRevision = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4])

local function field(info, name)
  return string.match(info, '\n' .. name .. ':([^\r\n]*)') or ''
end
local server = redis.call('INFO', 'server')
local replication = redis.call('INFO', 'replication')
if field(replication, 'role') ~= 'master' then
  return redis.error_reply('REPLICA this server is a replica')
end
local run = field(server, 'run_id')
local replid = field(replication, 'master_replid')
local tookOver = string.match(field(replication, 'master_replid2'), '^0*$') == nil
local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
-- Uptime comes in whole seconds: at the latest then it was running.
local startedMsMax = nowMs - tonumber(field(server, 'uptime_in_seconds')) * 1000 + 1000

local row = redis.call('HMGET', store, 'generation', 'incarnation', 'run', 'replid', 'seen_ms', 'began', 'lost', 'revision')
local generation, incarnation, revision = row[1], row[2], tonumber(row[8] or '0')
local began, lost = tonumber(row[6] or '0'), row[7]
if generation and redis.call('HGET', store, 'format') ~= format then
  return redis.error_reply('FORMAT the store was written by another version of Ferry')
end
if not generation then
  generation, incarnation, began, lost = random, random, 0, '0'
elseif row[3] ~= run then
  -- A server that ran already while the former one still answered is another one.
  local isOther = tookOver or startedMsMax <= tonumber(row[5])
  began, lost = revision, '0'
  if isOther or (seenGeneration == generation and seenRevision > revision) then
    incarnation, lost = random, '1'
  end
elseif row[4] ~= replid and tookOver then
  -- The same process was a replica in between.
  incarnation, began, lost = random, revision, '1'
elseif seenRun ~= run and seenGeneration == generation and seenRevision > began and lost ~= '1' then
  -- The caller saw more of the former server than this one began with.
  incarnation, lost = random, '1'
end
redis.call('HSET', store, 'format', format, 'generation', generation, 'incarnation', incarnation, 'run', run, 'replid', replid,
  'seen_ms', string.format('%.0f', nowMs), 'began', string.format('%.0f', began), 'lost', lost)
return { generation, incarnation, run, string.format('%.0f', revision) }
