-- Gives a consumer what another left idle, then what is new.
-- ARGV: group, consumer, max, idle_ms, deliveries_max
-- Answers {event, deliveries, fields} each.
local p = KEYS[1] .. 'feedback:'
local stream, group, consumer = p .. 'events', ARGV[1], ARGV[2]
local max, deliveries_max = tonumber(ARGV[3]), tonumber(ARGV[5])
local bad_done = p .. 'bad_cases_done:' .. group

local function is_bad(fields)
  for i = 1, #fields, 2 do
    if fields[i] == 'bad_case' then return fields[i + 1] == '1' end
  end
  return false
end

local created = redis.pcall('XGROUP', 'CREATE', stream, group, '0', 'MKSTREAM')
if not created.err then
  -- What other groups had trimmed before will never come to this one.
  local waiting = 0
  for _, entry in ipairs(redis.call('XRANGE', stream, '-', '+')) do
    if is_bad(entry[2]) then waiting = waiting + 1 end
  end
  local all = tonumber(redis.call('GET', p .. 'bad_cases') or '0')
  redis.call('SET', bad_done, all - waiting)
end

local claimed = {}
local cursor = '0-0'
repeat
  local answer = redis.call('XAUTOCLAIM', stream, group, consumer, ARGV[4], cursor, 'COUNT', max - #claimed)
  cursor = answer[1]
  for _, entry in ipairs(answer[2]) do
    local id, fields = entry[1], entry[2]
    local deliveries = redis.call('XPENDING', stream, group, id, id, 1)[1][4]
    if deliveries > deliveries_max then
      redis.call('XADD', p .. 'dead:' .. group, id, 'deliveries', deliveries - 1, unpack(fields))
      redis.call('XACK', stream, group, id)
      if is_bad(fields) then redis.call('INCR', bad_done) end
    else
      claimed[#claimed + 1] = {id, deliveries, fields}
    end
  end
until cursor == '0-0' or #claimed >= max

if #claimed < max then
  local new = redis.call('XREADGROUP', 'GROUP', group, consumer, 'COUNT', max - #claimed, 'STREAMS', stream, '>')
  if new then
    for _, entry in ipairs(new[1][2]) do
      claimed[#claimed + 1] = {entry[1], 1, entry[2]}
    end
  end
end
return claimed
