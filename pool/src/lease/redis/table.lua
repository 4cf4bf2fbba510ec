-- Stands before the scripts of leases, after the age.
--
-- held: CID -> "port token request"; expiry: CID -> its expiry as an age; ports: held port -> CID;
-- requests: request -> CID; free_cids, free_ports: what may be given, scored by itself; given: the last token,
-- which ranges were put into the free sets, and the last release of each CID.
local held, expiry, ports, requests = KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local free_cids, free_ports, given = KEYS[6], KEYS[7], KEYS[8]

local function record(cid)
  local packed = redis.call('HGET', held, cid)
  if not packed then return nil end
  local port, token, request = string.match(packed, '^(%d+) (%d+) (.*)$')
  return { port = port, token = token, request = request }
end

local function lasts(cid)
  return age < tonumber(redis.call('ZSCORE', expiry, cid))
end

local function keep(cid, ttl)
  redis.call('ZADD', expiry, num(age + ttl), cid)
end

local function take(cid, port, token, request, ttl)
  keep(cid, ttl)
  redis.call('HSET', held, cid, port .. ' ' .. token .. ' ' .. request)
  redis.call('HSET', ports, port, cid)
  redis.call('ZREM', free_cids, cid)
  redis.call('ZREM', free_ports, port)
  if request ~= '' then redis.call('HSET', requests, request, cid) end
end

local function drop(cid, lease)
  redis.call('HDEL', held, cid)
  redis.call('ZREM', expiry, cid)
  redis.call('HDEL', ports, lease.port)
  redis.call('ZADD', free_cids, cid, cid)
  redis.call('ZADD', free_ports, lease.port, lease.port)
  -- The same request may have got another lease after this one expired.
  if redis.call('HGET', requests, lease.request) == cid then redis.call('HDEL', requests, lease.request) end
end
