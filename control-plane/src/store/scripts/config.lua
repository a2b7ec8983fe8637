-- Compare-and-set of the fleet file. KEYS[1] is the file, KEYS[2] the fleet's events.
-- ARGV: channel, expected revision (0: none), next revision, body, events kept, events...
-- Returns 'done' | 'lost', body of the current one.
local current = redis.call('HMGET', KEYS[1], 'revision', 'body')
if current[2] == ARGV[4] then return { 'done', false } end
if (current[1] or '0') ~= ARGV[2] then return { 'lost', current[2] } end
redis.call('HSET', KEYS[1], 'revision', ARGV[3], 'body', ARGV[4])
for i = 6, #ARGV do
  redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[5], '*', 'b', '', 'e', ARGV[i])
end
redis.call('PUBLISH', ARGV[1], 'c')
return { 'done', false }
