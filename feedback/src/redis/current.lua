-- The current votes on one answer. ARGV: inference
local p = KEYS[1] .. 'feedback:'
local votes = {}
for _, id in ipairs(redis.call('HVALS', p .. 'current:' .. ARGV[1])) do
  votes[#votes + 1] = {id, redis.call('HGETALL', p .. 'vote:' .. id)}
end
return votes
