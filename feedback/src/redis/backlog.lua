-- How many events a group has not acknowledged: all, and bad cases.
-- ARGV: group
local p = KEYS[1] .. 'feedback:'
local stream = p .. 'events'
if redis.call('EXISTS', stream) == 0 then
  return {0, 0}
end
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local name, last
  for i = 1, #info, 2 do
    if info[i] == 'name' then name = info[i + 1] end
    if info[i] == 'last-delivered-id' then last = info[i + 1] end
  end
  if name == ARGV[1] then
    -- Event numbers have no gaps.
    local new = tonumber(redis.call('GET', p .. 'event_seq')) - tonumber(string.match(last, '^%d+'))
    local bad = tonumber(redis.call('GET', p .. 'bad_cases') or '0')
      - tonumber(redis.call('GET', p .. 'bad_cases_done:' .. name) or '0')
    return {new + redis.call('XPENDING', stream, name)[1], bad}
  end
end
local bad = 0
local all = redis.call('XRANGE', stream, '-', '+')
for _, entry in ipairs(all) do
  for f = 1, #entry[2], 2 do
    if entry[2][f] == 'bad_case' and entry[2][f + 1] == '1' then bad = bad + 1 end
  end
end
return {#all, bad}
