-- One group's sync. After clock.lua and epoch.lua; KEYS[3] are the registers.
-- ARGV: seen clock, channel, grace, seen epoch, replica, register TTL,
--   number of offers, then for each: name, epoch, revision, body;
--   number of subjects (backends and services), then for each: name, register or '', seen epoch, seen revision.
-- Offers are records that the replica or its agents know and the store may lack.
-- Returns now, epoch and for each subject: name, epoch, revision (0 0: none),
-- body (false if as seen, or none), 1 if the seen one is wanted as an offer,
-- and the other replicas' live registers as replica, bytes, replica, bytes...
local registers = KEYS[3]
local me = ARGV[5]
local ttl = tonumber(ARGV[6])
local at = 7
local function take() at = at + 1; return ARGV[at - 1] end

for _ = 1, tonumber(take()) do
  local name = take()
  local known = { epoch = tonumber(take()), revision = tonumber(take()) }
  local body = take()
  local current = read(name)
  if lost(current, known) then
    start_epoch(known.epoch + 1, true)
    current = read(name)
  end
  if known.epoch < epoch and adoptable(current, known) then
    local revision = math.max(known.revision, current and current.revision + 1 or 1)
    local version = { epoch = epoch, revision = revision }
    redis.call('HSET', records, 'v:' .. name, header(version, known, '-'), 'b:' .. name, body)
    redis.call('PUBLISH', channel, 'b' .. name)
  end
end

local subjects = {}
for _ = 1, tonumber(take()) do
  local subject = { name = take(), register = take(),
                    seen = { epoch = tonumber(take()), revision = tonumber(take()) } }
  if subject.register ~= '' then
    redis.call('HSET', registers, subject.name .. ' ' .. me, int(now) .. ' ' .. subject.register)
  end
  subjects[#subjects + 1] = subject
end
redis.call('PEXPIRE', registers, ttl)

-- Registers of replicas that went away are dropped by whoever looks next.
local views = {}
local all = redis.call('HGETALL', registers)
for i = 1, #all, 2 do
  local name, replica = all[i]:match('^(%S+) (.+)$')
  local space = all[i + 1]:find(' ', 1, true)
  local stamp = space and tonumber(all[i + 1]:sub(1, space - 1))
  if not name or not stamp or stamp + ttl < now then
    redis.call('HDEL', registers, all[i])
  elseif replica ~= me then
    views[name] = views[name] or {}
    table.insert(views[name], replica)
    table.insert(views[name], all[i + 1]:sub(space + 1))
  end
end

-- Losses first: a new epoch changes every version that is about to be told.
for _, subject in ipairs(subjects) do
  local current = read(subject.name)
  if lost(current, subject.seen) then start_epoch(subject.seen.epoch + 1, true) end
end

local reply = {}
for i, subject in ipairs(subjects) do
  local current = read(subject.name)
  local wanted = subject.seen.epoch < epoch and adoptable(current, subject.seen)
  local version = current or { epoch = 0, revision = 0 }
  local same = version.epoch == subject.seen.epoch and version.revision == subject.seen.revision
  local body = not same and redis.call('HGET', records, 'b:' .. subject.name)
  reply[i] = { subject.name, version.epoch, version.revision, body, wanted and 1 or 0,
               views[subject.name] or {} }
end
return { now, epoch, reply }
