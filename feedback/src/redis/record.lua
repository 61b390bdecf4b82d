-- Keeps an answer once. ARGV: id, created, body, then names and values of what
-- votes are credited to.
local key = KEYS[1] .. 'feedback:inference:' .. ARGV[1]
if redis.call('EXISTS', key) == 1 then
  return 0
end
redis.call('HSET', key, 'body', unpack(ARGV, 3))
redis.call('ZADD', KEYS[1] .. 'feedback:inferences', ARGV[2], ARGV[1])
return 1
