-- Leases one CID and one port.
-- ARGV: ttl, grace, request, first and last CID, first and last port.
-- Answers {'new', wait} | {'full', what, wait} | {'leased', cid, port, token, taken over}.
local ttl, grace, request = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local cid_first, cid_last, port_first, port_last = ARGV[5], ARGV[6], ARGV[7], ARGV[8]

local settled = ttl + grace
if age < settled then return { 'new', num(settled - age) } end

-- The answer to an earlier try may have been lost.
local mine = redis.call('HGET', requests, request)
if mine then
  local lease = record(mine)
  if lasts(mine) then
    keep(mine, ttl)
    return { 'leased', mine, lease.port, lease.token, '0' }
  end
end

local over = redis.call('ZRANGEBYSCORE', expiry, '-inf', num(age - grace))
for _, cid in ipairs(over) do drop(cid, record(cid)) end

local function offer(what, taken, free, first, last)
  local range = what .. ' ' .. first .. '-' .. last
  if redis.call('HSETNX', given, range, '1') == 1 then
    for value = tonumber(first), tonumber(last) do
      if redis.call('HEXISTS', taken, num(value)) == 0 then redis.call('ZADD', free, num(value), num(value)) end
    end
  end
  return redis.call('ZRANGEBYSCORE', free, first, last, 'LIMIT', 0, 1)[1]
end

local function full(what)
  local soonest = redis.call('ZRANGE', expiry, 0, 0, 'WITHSCORES')[2]
  local wait = soonest and math.max(0, tonumber(soonest) + grace - age) or ttl
  return { 'full', what, num(wait) }
end

local cid = offer('cid', held, free_cids, cid_first, cid_last)
if not cid then return full('CID') end
local port = offer('port', ports, free_ports, port_first, port_last)
if not port then return full('port') end

-- The counter orders leases when the clock is set back; the clock when the counter was lost.
local last = tonumber(redis.call('HGET', given, 'token') or '0')
local token = num(math.max(last + 1, wall))
redis.call('HSET', given, 'token', token)
take(cid, port, token, request, ttl)
return { 'leased', cid, port, token, num(#over) }
