-- ARGV: 5 number, 6 result, 7 digest, 8 age at which data is not new any more, 9 size from which a result is large.
-- Answers 1 (committed, now or before) or 0 (lost).
local number, result, digest, settled = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
local phase, newest = get('phase'), get('number')

if phase == 'committed' or phase == 'done' then return newest == number and 1 or 0 end
if phase ~= 'held' or newest ~= number then
  -- While the data is new, an attempt that it does not know was lost with the old data.
  if age >= settled or (newest and tonumber(newest) >= tonumber(number)) then return 0 end
  local known = get('digest')
  if known and known ~= digest then return 0 end
  set('digest', digest)
end

set('phase', 'committed', 'number', number, 'result', result)
if #result > tonumber(ARGV[9]) then set('large', num(#result)) end
redis.call('HDEL', job, 'owner', 'request', 'begun', 'lapses', 'seized', 'history')
-- Kept until it is published, however long that takes.
redis.call('PERSIST', job)
redis.call('ZREM', deadlines, name)
redis.call('ZREM', running, id)
unwait()
redis.call('ZADD', unpublished, num(wall), name)
return 1
