-- Acquires, renews or releases a lease.
-- ARGV: operation, name, holder, now, expires_at, fence
-- Answers the fence, or 0 where the lease is another's. A released lease keeps
-- its fence, which never falls.
local key = KEYS[1] .. 'control:lease:' .. ARGV[2]
local found = redis.call('HMGET', key, 'holder', 'fence', 'expires_at')
local holder, fence, expires_at = found[1], found[2], tonumber(found[3] or '0')
local operation, now = ARGV[1], tonumber(ARGV[4])
if operation == 'acquire' then
  if holder and holder ~= '' and holder ~= ARGV[3] and expires_at > now then
    return 0
  end
  redis.call('HSET', key, 'holder', ARGV[3], 'expires_at', ARGV[5])
  return redis.call('HINCRBY', key, 'fence', 1)
end
if holder ~= ARGV[3] or fence ~= ARGV[6] then
  return 0
end
if operation == 'release' then
  redis.call('HSET', key, 'holder', '')
  return tonumber(fence)
end
if expires_at <= now then
  return 0
end
redis.call('HSET', key, 'expires_at', ARGV[5])
return tonumber(fence)
