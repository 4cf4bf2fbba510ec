-- Stands alone after the age. KEYS: 2 when results were committed. ARGV: 2 how long ago, 3 how many at most, 4 how many
-- bytes at most, 5 what stands before a job's name in its key. Answers name, result and route of each.
local answer, bytes = {}, 0
local before = num(wall - tonumber(ARGV[2]))
for _, name in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', before, 'LIMIT', 0, ARGV[3])) do
  local job = redis.call('HMGET', ARGV[5] .. name, 'result', 'route')
  if job[1] then
    bytes = bytes + #job[1]
    if #answer > 0 and bytes > tonumber(ARGV[4]) then break end
    answer[#answer + 1] = name
    answer[#answer + 1] = job[1]
    answer[#answer + 1] = job[2] or ''
  else
    redis.call('ZREM', KEYS[2], name)
  end
end
return answer
