-- Stands before the scripts of the ledger, after the age. Times are microseconds of the server's wall clock.
--
-- KEYS: 2 the job, a hash; 3 deadlines of jobs without a result; 4 when results that are not known to be published
-- were committed; 5 the tenant's running jobs by when their owners' heartbeats lapse; 6 its waiting jobs; 7 the shards
-- of tenants that have any; 8 how many jobs wait in each. ARGV: 2 the job's name in 3 and 4; 3 its id, which names it
-- in 5 and 6; 4 for how long it is kept when nothing more is heard of it (ms).
--
-- The job: digest, deadline (ms), route, cancelled, history; phase (absent or free, held, committed, done), number;
-- while held owner, request, begun, lapses, seized; then result, large where it should go by reference, and told, where
-- it was asked to go when it was published.
local job, deadlines, unpublished, running = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local waiting, shards, load = KEYS[6], KEYS[7], KEYS[8]
local name, id, keep = ARGV[2], ARGV[3], tonumber(ARGV[4])
local wall_ms = math.floor(wall / 1000)

local function get(field) return redis.call('HGET', job, field) end
local function set(...) redis.call('HSET', job, ...) end

local function linger()
  local deadline = tonumber(get('deadline') or '0')
  redis.call('PEXPIRE', job, num(math.max(deadline - wall_ms, 0) + keep))
end

-- What is said of the job first stays. False when it is another job.
local function enrol(digest, deadline, route)
  local known = get('digest')
  if known and known ~= digest then return false end
  if not known then set('digest', digest) end
  -- What has a result has neither: its deadline would never be taken out of the set again.
  local phase = get('phase')
  if phase == 'committed' or phase == 'done' then return true end
  if deadline ~= '' and redis.call('HSETNX', job, 'deadline', deadline) == 1 then
    redis.call('ZADD', deadlines, deadline, name)
  end
  if route ~= '' then redis.call('HSETNX', job, 'route', route) end
  return true
end

local function history() return '[' .. (get('history') or '') .. ']' end

local function note(failed)
  local before = get('history')
  set('history', before and before .. ',' .. failed or failed)
end

-- The job waits no more.
local function unwait()
  if redis.call('SREM', waiting, id) == 0 then return end
  local tenant = string.sub(name, 1, #name - #id - 1)
  local at = redis.call('HGET', shards, tenant)
  if at then redis.call('HINCRBY', load, at, -1) end
  if redis.call('EXISTS', waiting) == 0 then redis.call('HDEL', shards, tenant) end
end

-- Gives the job to an owner. If another fell silent over it, that was an attempt.
local function hold(owner, request, lapse, seized)
  if get('phase') == 'held' and get('seized') == '0' and tonumber(get('lapses')) <= wall then
    note('{"worker":' .. cjson.encode(get('owner')) .. ',"step":"run","message":"the worker fell silent","failed_unix_ms":'
      .. num(wall_ms) .. ',"took_ms":' .. num(math.max(0, wall_ms - math.floor(tonumber(get('begun')) / 1000)))
      .. ',"counted":true}')
  end
  -- The counter orders attempts when the clock is set back; the clock when the counter was lost.
  local number = num(math.max(tonumber(get('number') or '0') + 1, wall))
  set('phase', 'held', 'number', number, 'owner', owner, 'request', request, 'begun', num(wall),
    'lapses', num(wall + lapse), 'seized', seized)
  unwait()
  return number
end

local function runs(lapse)
  redis.call('ZADD', running, num(wall + lapse), id)
  -- Who is silent for much longer runs nothing any more.
  redis.call('PEXPIRE', running, num(math.ceil(lapse / 1000) * 10))
end
