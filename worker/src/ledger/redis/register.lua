-- ARGV: 5 digest, 6 deadline (ms) or nothing, 7 route, 8 tenant, 9 how many shards there are, 10 the tenant's home.
-- Answers {'conflict'} | {'committed', result} | {'done', result} | {'held', for how long, shard}
-- | {'waiting', cancelled, shard}.
local tenant, count, home = ARGV[8], tonumber(ARGV[9]), tonumber(ARGV[10])

-- Where the fewest jobs wait; of equals the first from the tenant's home on.
local function emptiest()
  local best, least
  for i = 0, count - 1 do
    local shard = (home + i) % count
    local waits = tonumber(redis.call('HGET', load, shard) or '0')
    if not least or waits < least then best, least = shard, waits end
  end
  return best
end

-- Puts the job among its tenant's waiting ones; answers where they wait, which stays while there are any.
local function wait()
  if count == 0 then return '0' end
  local at = redis.call('HGET', shards, tenant)
  if at and tonumber(at) >= count then
    redis.call('HINCRBY', load, at, -redis.call('SCARD', waiting))
    at = nil
  end
  if not at then
    at = num(emptiest())
    redis.call('HSET', shards, tenant, at)
    redis.call('HINCRBY', load, at, redis.call('SCARD', waiting))
  end
  redis.call('HINCRBY', load, at, redis.call('SADD', waiting, id))
  return at
end
if not enrol(ARGV[5], ARGV[6], ARGV[7]) then return { 'conflict' } end
local phase = get('phase')
if phase == 'committed' or phase == 'done' then return { phase, get('result') } end
linger()
if phase == 'held' then
  local left = tonumber(get('lapses')) - wall
  if left > 0 then return { 'held', num(left), wait() } end
end
return { 'waiting', get('cancelled') or '0', wait() }
