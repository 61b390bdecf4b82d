-- Takes a vote.
-- ARGV: id, digest, inference, rater, metric, value, tags, now, bad_case,
--       has_token, then the token's adapter, arm, rollout, unit
-- An empty text stands for none. Answers what became of it, the vote's id, and
-- the id of the vote whose place it took.
local p = KEYS[1] .. 'feedback:'
local id, digest, inference, metric = ARGV[1], ARGV[2], ARGV[3], ARGV[5]

local known = redis.call('HGET', p .. 'requests', id)
if known then
  local known_digest, vote = string.match(known, '^(%S+) (%S+)$')
  if known_digest ~= digest then
    return {'id_conflict', id, ''}
  end
  return {'unchanged', vote, ''}
end

local credit
if redis.call('EXISTS', p .. 'inference:' .. inference) == 1 then
  credit = redis.call('HMGET', p .. 'inference:' .. inference, 'adapter', 'arm', 'rollout', 'unit')
elseif ARGV[10] == '1' then
  credit = {ARGV[11], ARGV[12], ARGV[13], ARGV[14]}
else
  return {'unknown_inference', id, ''}
end

local rater = ARGV[4]
if rater == '' then
  rater = credit[4] or ''
end
if rater == '' then
  return {'rater_required', id, ''}
end

local place = metric .. ' ' .. rater
local current = redis.call('HGET', p .. 'current:' .. inference, place)
if current then
  local found = redis.call('HMGET', p .. 'vote:' .. current, 'value', 'tags')
  if found[1] == ARGV[6] and found[2] == ARGV[7] then
    redis.call('HSET', p .. 'requests', id, digest .. ' ' .. current)
    return {'unchanged', current, ''}
  end
  redis.call('HSET', p .. 'vote:' .. current, 'superseded_by', id)
end

local seq = redis.call('INCR', p .. 'vote_seq')
local fields = {
  'seq', tostring(seq), 'inference', inference, 'rater', rater, 'metric', metric,
  'value', ARGV[6], 'tags', ARGV[7], 'created', ARGV[8],
}
for i, name in ipairs({'adapter', 'arm', 'rollout', 'unit'}) do
  if credit[i] and credit[i] ~= '' then
    fields[#fields + 1] = name
    fields[#fields + 1] = credit[i]
  end
end
redis.call('HSET', p .. 'vote:' .. id, unpack(fields))
redis.call('ZADD', p .. 'votes', seq, id)
redis.call('HSET', p .. 'current:' .. inference, place, id)
redis.call('HSET', p .. 'requests', id, digest .. ' ' .. id)

local event = redis.call('INCR', p .. 'event_seq')
redis.call('XADD', p .. 'events', event .. '-0',
  'vote', id, 'inference', inference, 'change', 'voted', 'bad_case', ARGV[9])
if ARGV[9] == '1' then
  redis.call('INCR', p .. 'bad_cases')
end
redis.call('INCR', KEYS[1] .. 'changes:feedback')
return {current and 'superseded' or 'recorded', id, current or ''}
