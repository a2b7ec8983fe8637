-- A replica's presence. After clock.lua; KEYS[2] are the replicas.
-- ARGV: seen clock, replica, TTL, presence.
-- Returns now and all live ones as replica, bytes, replica, bytes...
local replicas = KEYS[2]
local ttl = tonumber(ARGV[3])
redis.call('HSET', replicas, ARGV[2], int(now) .. ' ' .. ARGV[4])
redis.call('PEXPIRE', replicas, ttl)
local live = {}
local all = redis.call('HGETALL', replicas)
for i = 1, #all, 2 do
  local space = all[i + 1]:find(' ', 1, true)
  local stamp = space and tonumber(all[i + 1]:sub(1, space - 1))
  if not stamp or stamp + ttl < now then
    redis.call('HDEL', replicas, all[i])
  else
    table.insert(live, all[i])
    table.insert(live, all[i + 1]:sub(space + 1))
  end
end
return { now, live }
