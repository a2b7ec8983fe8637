-- The epoch of the group's history. After clock.lua; KEYS[2] are the records.
--
-- A record is two fields: `v:NAME`, "EPOCH REVISION ORIGIN_EPOCH ORIGIN_REVISION BY",
-- and `b:NAME`, its body. ORIGIN is the version that it had before this epoch,
-- kept (not 0 0) for as long as nothing was decided on it in this epoch: until
-- then a replica that knows something newer than ORIGIN may still bring it.
--
-- A new epoch starts when the history may have changed under us:
--  * no epoch is kept: the store is new, or empty again;
--  * `master_replid` differs: another server was promoted, and may lack writes.
--    It is read here, in the same step as the data: an id read on connecting
--    would be stale by now. Where INFO is forbidden, the next rule remains;
--  * the replica has seen a later epoch or revision than is here.
-- It is at least the time in milliseconds, so it is higher than before even if
-- nobody is left who remembers, and so that a server emptied twice in a row does
-- not give one version to two decisions.
local records = KEYS[2]
local channel = ARGV[2]
local grace = tonumber(ARGV[3])
local seen_epoch = tonumber(ARGV[4])
local epoch = tonumber(kept[3]) or 0
local repair_until = tonumber(kept[5]) or 0

-- A record whose header cannot be read counts as lost, and is repaired so.
local function read(name)
  local line = redis.call('HGET', records, 'v:' .. name)
  if not line then return nil end
  local e, r, oe, orev, by = line:match('^(%d+) (%d+) (%d+) (%d+) (.*)$')
  if not e then return nil end
  return { epoch = tonumber(e), revision = tonumber(r),
           origin = { epoch = tonumber(oe), revision = tonumber(orev) }, by = by }
end

local function header(version, origin, by)
  return table.concat({ int(version.epoch), int(version.revision),
                        int(origin.epoch), int(origin.revision), by }, ' ')
end

local function newer(a, b)
  return a.epoch > b.epoch or (a.epoch == b.epoch and a.revision > b.revision)
end

-- Restamps all records. With history that somebody knows, decisions wait until
-- every live replica had time to bring what it has seen.
local function start_epoch(least, history)
  epoch = math.max(epoch + 1, least, raw)
  local fields = redis.call('HKEYS', records)
  for _, field in ipairs(fields) do
    local name = field:match('^v:(.*)$')
    if name then
      local old = read(name)
      if old then
        local version = { epoch = epoch, revision = old.revision }
        redis.call('HSET', records, field, header(version, old, '-'))
      end
    end
  end
  if history then repair_until = now + grace end
  redis.call('HSET', meta, 'epoch', int(epoch), 'repair_until', int(repair_until))
  redis.call('PUBLISH', channel, '*')
end

local info = redis.pcall('INFO', 'replication')
local replid = type(info) == 'string' and info:match('master_replid:(%x+)') or nil
local promoted = replid and kept[4] and kept[4] ~= replid
if replid and kept[4] ~= replid then redis.call('HSET', meta, 'replid', replid) end
if epoch == 0 or promoted or seen_epoch > epoch then
  start_epoch(seen_epoch + 1, epoch > 0 or seen_epoch > 0)
end

-- May `known`, from an earlier epoch, still be taken over in place of `current`?
local function adoptable(current, known)
  if known.epoch == 0 then return false end
  if not current then return true end
  return current.origin.epoch > 0 and newer(known, current.origin)
end

-- Is `known` from this history, yet not in it? Then writes were lost unnoticed.
local function lost(current, known)
  return known.epoch > epoch or
    (known.epoch == epoch and (not current or newer(known, current)))
end
