-- The store's clock in milliseconds, for the group whose `meta` is KEYS[1].
--
-- TIME goes back when an operator or NTP sets the clock, and jumps when another
-- host takes over. So its lag behind what this group (`clock`) or the calling
-- replica (ARGV[1]) has already seen is added from then on: the clock never goes
-- back, never stands still, and the clocks of all groups meet at the highest.
local meta = KEYS[1]
local int = function(n) return string.format('%.0f', n) end

local time = redis.call('TIME')
local raw = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local kept = redis.call('HMGET', meta, 'clock', 'offset', 'epoch', 'replid', 'repair_until')
local now = math.max(raw + (tonumber(kept[2]) or 0), tonumber(kept[1]) or 0, tonumber(ARGV[1]))
redis.call('HSET', meta, 'clock', int(now), 'offset', int(now - raw))
