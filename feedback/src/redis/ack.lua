-- Acknowledges events, and trims those that no group can be given again: below
-- the smallest of each group's last delivered and oldest pending event.
-- ARGV: group, then event numbers
local p = KEYS[1] .. 'feedback:'
local stream, group = p .. 'events', ARGV[1]
if redis.call('EXISTS', stream) == 0 then
  return 0
end
for i = 2, #ARGV do
  local id = ARGV[i] .. '-0'
  local entry = redis.call('XRANGE', stream, id, id)[1]
  if redis.call('XACK', stream, group, id) == 1 and entry then
    for f = 1, #entry[2], 2 do
      if entry[2][f] == 'bad_case' and entry[2][f + 1] == '1' then
        redis.call('INCR', p .. 'bad_cases_done:' .. group)
      end
    end
  end
end

local function number(id)
  return tonumber(string.match(id, '^%d+'))
end

local least
for _, info in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
  local name, last
  for i = 1, #info, 2 do
    if info[i] == 'name' then name = info[i + 1] end
    if info[i] == 'last-delivered-id' then last = info[i + 1] end
  end
  local pending = redis.call('XPENDING', stream, name)
  local needed = number(last) + 1
  if pending[1] > 0 then
    needed = math.min(needed, number(pending[2]))
  end
  least = math.min(least or needed, needed)
end
if least then
  redis.call('XTRIM', stream, 'MINID', string.format('%.0f-0', least))
end
return 1
