-- Events that come with no commit. KEYS[1] are the group's events.
-- ARGV: channel, hint, name or '', events kept, events...
for i = 5, #ARGV do
  redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[4], '*', 'b', ARGV[3], 'e', ARGV[i])
end
redis.call('PUBLISH', ARGV[1], ARGV[2])
return 1
