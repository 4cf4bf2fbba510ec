-- Renews leases that last by their holder's own clock. ARGV: ttl, grace, then CID, port and token of each.
-- Answers 1 (renewed) or 0 (lost) for each, in the order asked.
local ttl, grace = tonumber(ARGV[2]), tonumber(ARGV[3])

-- While the data is new, a lease that it does not know was lost with the old data: it is put down again.
local function register(cid, port, token)
  if redis.call('HEXISTS', ports, port) == 1 then return 0 end
  take(cid, port, token, '', ttl)
  local last = tonumber(redis.call('HGET', given, 'token') or '0')
  redis.call('HSET', given, 'token', num(math.max(last, tonumber(token))))
  return 1
end

local function renew(cid, port, token)
  local lease = record(cid)
  if not lease then
    if age < ttl + grace then return register(cid, port, token) end
    return 0
  end
  if lease.port ~= port or lease.token ~= token or not lasts(cid) then return 0 end
  keep(cid, ttl)
  return 1
end

local answers = {}
for i = 4, #ARGV, 3 do
  answers[#answers + 1] = renew(ARGV[i], ARGV[i + 1], ARGV[i + 2])
end
return answers
