-- What every script but admit.lua runs in; the script is the body of `body`.
--
-- KEYS[1]  prefix of all keys; the scripts build key names from it, so a Redis Cluster would need a prefix like "{ferry}:"
-- ARGV[1]  "generation:incarnation" that the caller believes in, or '' where any store will do; taken off before the body
-- Reply    {revision of the store, the body's reply}, or the error REBUILDING: the store is not the one that the caller knows
local prefix = KEYS[1]
local believed = table.remove(ARGV, 1)
if believed ~= '' then
  local found = redis.call('HMGET', prefix .. 'store', 'generation', 'incarnation')
  if (found[1] or '') .. ':' .. (found[2] or '') ~= believed then
    return redis.error_reply('REBUILDING the store was lost or taken over')
  end
end

-- Milliseconds since 1970 by the server's clock.
local function nowMs()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- A whole number below 2^53 as text.
local function decimal(number)
  return string.format('%.0f', number)
end

-- The live session, other than `session`, that `driver` is; or nil.
local function drivenBy(driver, session)
  if driver == '' or driver == session then
    return nil
  end
  local untilMs = redis.call('ZSCORE', prefix .. 'sessions', driver)
  if untilMs and tonumber(untilMs) > nowMs() then
    return driver
  end
  return nil
end

-- Puts a member in or out of an index.
local function index(key, member, isIn)
  if isIn then
    redis.call('ZADD', prefix .. key, 0, member)
  else
    redis.call('ZREM', prefix .. key, member)
  end
end

-- A number for a name: the one it has, else the first candidate that was never used, else nil.
local function numberOf(kind, name, first)
  local known = redis.call('HGET', prefix .. 'numbers:' .. kind, name)
  if known then
    return known
  end
  for at = first, #ARGV do
    if ARGV[at] ~= '0' and redis.call('HSETNX', prefix .. 'used:' .. kind, ARGV[at], name) == 1 then
      redis.call('HSET', prefix .. 'numbers:' .. kind, name, ARGV[at])
      return ARGV[at]
    end
  end
  return nil
end

local function body()
--[[BODY]]
end
local reply = body()
-- A refusal has changed nothing.
if type(reply) == 'table' and reply.err then
  return reply
end
return { decimal(redis.call('HINCRBY', prefix .. 'store', 'revision', 1)), reply or false }
