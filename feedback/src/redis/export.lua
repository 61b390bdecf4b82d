-- Votes in the order in which they came. ARGV: after, limit
local p = KEYS[1] .. 'feedback:'
local votes = {}
for _, id in ipairs(redis.call('ZRANGEBYSCORE', p .. 'votes', '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])) do
  votes[#votes + 1] = {id, redis.call('HGETALL', p .. 'vote:' .. id)}
end
return votes
