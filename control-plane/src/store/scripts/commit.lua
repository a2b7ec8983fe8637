-- Compare-and-set of one record. After clock.lua and epoch.lua; KEYS[3] are the
-- group's events.
-- ARGV: seen clock, channel, grace, seen epoch, replica, name, expected epoch,
--   expected revision (0 0: none), body, events kept, events...
-- Returns 'done' | 'lost' | 'repairing', epoch, revision, body of the current one.
local events = KEYS[3]
local me, name, body = ARGV[5], ARGV[6], ARGV[9]
local expected = { epoch = tonumber(ARGV[7]), revision = tonumber(ARGV[8]) }
local current = read(name)

if now < repair_until or lost(current, expected) then return { 'repairing', 0, 0, false } end

local after = { epoch = epoch, revision = expected.revision + 1 }
local is = current or { epoch = 0, revision = 0 }
local stored = current and redis.call('HGET', records, 'b:' .. name)

-- A repetition, after the first answer was lost on its way.
local mine = current and current.by == me and stored == body
if mine and is.epoch == after.epoch and is.revision == after.revision then
  return { 'done', after.epoch, after.revision, false }
end
if is.epoch ~= expected.epoch or is.revision ~= expected.revision then
  return { 'lost', is.epoch, is.revision, stored }
end

redis.call('HSET', records, 'v:' .. name, header(after, { epoch = 0, revision = 0 }, me), 'b:' .. name, body)
for i = 11, #ARGV do
  redis.call('XADD', events, 'MAXLEN', '~', ARGV[10], '*', 'b', name, 'e', ARGV[i])
end
redis.call('PUBLISH', channel, 'b' .. name)
return { 'done', after.epoch, after.revision, false }
