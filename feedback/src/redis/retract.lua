-- Takes a current vote back. ARGV: id. Answers 1 where there was one.
local p = KEYS[1] .. 'feedback:'
local vote = p .. 'vote:' .. ARGV[1]
local found = redis.call('HMGET', vote, 'inference', 'rater', 'metric', 'superseded_by', 'retracted')
local inference = found[1]
if not inference or found[4] or found[5] then
  return 0
end
redis.call('HSET', vote, 'retracted', '1')
redis.call('HDEL', p .. 'current:' .. inference, found[3] .. ' ' .. found[2])
local event = redis.call('INCR', p .. 'event_seq')
redis.call('XADD', p .. 'events', event .. '-0',
  'vote', ARGV[1], 'inference', inference, 'change', 'retracted', 'bad_case', '0')
redis.call('INCR', KEYS[1] .. 'changes:feedback')
return 1
