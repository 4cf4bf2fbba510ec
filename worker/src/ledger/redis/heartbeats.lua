-- Many attempts say that they live. Stands alone after the age.
-- KEYS: for each attempt its job and its tenant's running jobs. ARGV: 2 lapse, 3 age at which data is not new any
-- more, 4 how long a job is kept (ms), then for each attempt: id, number, owner, digest.
-- Answers 1 (ours), 2 (ours and cancelled) or 0 (lost) for each, in the order asked.
local lapse, settled, keep = tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]

-- While the data is new, an attempt that it does not know was lost with the old data: it is put down again.
local function register(job, known, number, owner, digest)
  if age >= settled or (known[1] and known[1] ~= digest) then return false end
  if known[2] == 'committed' or known[2] == 'done' then return false end
  if known[3] and tonumber(known[3]) > tonumber(number) then return false end
  redis.call('HSET', job, 'digest', digest, 'phase', 'held', 'number', number, 'owner', owner, 'request', '',
    'begun', num(wall), 'seized', '0')
  redis.call('PEXPIRE', job, keep)
  return true
end

local function beat(job, running, id, number, owner, digest)
  local known = redis.call('HMGET', job, 'digest', 'phase', 'number', 'cancelled', 'seized')
  if known[2] ~= 'held' or known[3] ~= number then
    if not register(job, known, number, owner, digest) then return 0 end
  end
  redis.call('HSET', job, 'lapses', num(wall + lapse))
  if known[5] ~= '1' then
    redis.call('ZADD', running, num(wall + lapse), id)
    redis.call('PEXPIRE', running, num(math.ceil(lapse / 1000) * 10))
  end
  return known[4] == '1' and 2 or 1
end

local answers = {}
for i = 5, #ARGV, 4 do
  local k = 2 + 2 * #answers
  answers[#answers + 1] = beat(KEYS[k], KEYS[k + 1], ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
return answers
