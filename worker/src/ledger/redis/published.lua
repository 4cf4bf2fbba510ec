-- Results of many jobs are known to be published. Stands alone after the age.
-- KEYS: 2 when results that are not known to be published were committed, then each job. ARGV: 2 for how long a result is
-- kept (ms), then for each job its name in that set, and where it was asked to go.
-- Answers 1 for each of which that is news, in the order asked.
local unpublished, keep = KEYS[2], ARGV[2]

local function published(job, name, told)
  local phase = redis.call('HGET', job, 'phase')
  if phase == 'committed' or phase == 'done' then redis.call('HSET', job, 'told', told) end
  if phase ~= 'committed' then return 0 end
  redis.call('HSET', job, 'phase', 'done')
  redis.call('HDEL', job, 'route', 'deadline')
  redis.call('ZREM', unpublished, name)
  redis.call('PEXPIRE', job, keep)
  return 1
end

local answers = {}
for i = 3, #ARGV, 2 do
  answers[#answers + 1] = published(KEYS[#answers + 3], ARGV[i], ARGV[i + 1])
end
return answers
