-- Changes one document where it is as expected, with its audit record.
-- ARGV: kind, name, has_body, body, expected, expected_revision,
--       at, actor, action, audit_records_max, lease, holder, fence
-- A removed document keeps its revision, so that revisions go on growing.
local p = KEYS[1] .. 'control:'
local kind, name = ARGV[1], ARGV[2]
if ARGV[11] ~= '' then
  local lease = redis.call('HMGET', p .. 'lease:' .. ARGV[11], 'holder', 'fence')
  if lease[1] ~= ARGV[12] or lease[2] ~= ARGV[13] then
    return {'fenced', 0}
  end
end
local revision = tonumber(redis.call('HGET', p .. 'revision:' .. kind, name) or '0')
local before = redis.call('HGET', p .. 'body:' .. kind, name)
local expected = ARGV[5]
if (expected == 'absent' and before)
  or (expected == 'revision' and not (before and revision == tonumber(ARGV[6]))) then
  if before then return {'conflict_at', revision} end
  return {'conflict_absent', 0}
end
local has_body = ARGV[3] == '1'
if not before and not has_body then
  return {'done', revision}
end
revision = redis.call('HINCRBY', p .. 'revision:' .. kind, name, 1)
local record = {
  'at', ARGV[7], 'actor', ARGV[8], 'action', ARGV[9],
  'kind', kind, 'name', name, 'revision', tostring(revision),
}
if before then
  record[#record + 1] = 'before'
  record[#record + 1] = before
end
if has_body then
  redis.call('HSET', p .. 'body:' .. kind, name, ARGV[4])
  record[#record + 1] = 'after'
  record[#record + 1] = ARGV[4]
else
  redis.call('HDEL', p .. 'body:' .. kind, name)
end
local seq = redis.call('INCR', p .. 'audit_seq')
redis.call('XADD', p .. 'audit', 'MAXLEN', '~', ARGV[10], seq .. '-0', unpack(record))
redis.call('INCR', KEYS[1] .. 'changes:control')
return {'done', revision}
