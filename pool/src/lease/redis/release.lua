-- Gives a lease back. ARGV: CID, port, token, request. Answers 1 (released) or 0 (not held).
local cid, port, token, request = ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local field = 'released ' .. cid
local lease = record(cid)
if lease and lease.port == port and lease.token == token and lasts(cid) then
  drop(cid, lease)
  redis.call('HSET', given, field, request)
  return 1
end
-- The answer to an earlier try may have been lost.
if redis.call('HGET', given, field) == request then return 1 end
return 0
