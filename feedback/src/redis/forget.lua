-- Forgets answers made before a time. ARGV: before, max
local index = KEYS[1] .. 'feedback:inferences'
local ids = redis.call('ZRANGEBYSCORE', index, '-inf', '(' .. ARGV[1], 'LIMIT', 0, ARGV[2])
for _, id in ipairs(ids) do
  redis.call('DEL', KEYS[1] .. 'feedback:inference:' .. id)
  redis.call('ZREM', index, id)
end
return #ids
