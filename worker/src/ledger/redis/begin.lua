-- ARGV: 5 digest, 6 deadline (ms) or nothing, 7 route, 8 owner, 9 request, 10 lapse, 11 age at which data is not new
-- any more, 12 most running jobs of the tenant or nothing, 13 time between two beginnings of the tenant's jobs or 0,
-- 14 how many may begin at once. KEYS: 9 when the tenant's beginnings are as if there had been none.
-- Answers {'conflict'} | {'committed', result} | {'done', result, told} | {'held', for how long} | {'busy', running}
-- | {'paced', for how long} | {'begun', number, cancelled, history}.
local owner, request, lapse, settled = ARGV[8], ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11])
local every, burst = tonumber(ARGV[13]), math.max(1, tonumber(ARGV[14]))

-- Counts a beginning; answers how long it is too soon for that, or 0.
local function too_soon()
  local rested = tonumber(redis.call('GET', KEYS[9]) or '0')
  -- A clock that was set back makes nobody wait longer than from an empty bucket.
  rested = math.max(wall, math.min(rested, wall + every * burst))
  local soon = rested + every - (wall + every * burst)
  if soon > 0 then return soon end
  redis.call('SET', KEYS[9], num(rested + every), 'PX', num(math.ceil((rested + every - wall) / 1000)))
  return 0
end

if not enrol(ARGV[5], ARGV[6], ARGV[7]) then return { 'conflict' } end
local phase = get('phase')
if phase == 'committed' then return { phase, get('result') } end
if phase == 'done' then return { phase, get('result'), get('told') or '' } end
linger()
if age < settled then return { 'held', num(settled - age) } end

local function begun(number)
  runs(lapse)
  return { 'begun', number, get('cancelled') or '0', history() }
end

if phase == 'held' then
  -- The answer to an earlier try may have been lost.
  if get('request') == request then
    set('lapses', num(wall + lapse))
    return begun(get('number'))
  end
  local left = tonumber(get('lapses')) - wall
  if left > 0 then return { 'held', num(left) } end
end

if ARGV[12] ~= '' then
  local others = redis.call('ZCOUNT', running, '(' .. num(wall), '+inf')
  local own = redis.call('ZSCORE', running, id)
  if own and tonumber(own) > wall then others = others - 1 end
  if others >= tonumber(ARGV[12]) then return { 'busy', num(others) } end
end
-- Only its first attempt counts.
if every > 0 and not get('number') then
  local soon = too_soon()
  if soon > 0 then return { 'paced', num(soon) } end
end
redis.call('ZREMRANGEBYSCORE', running, '-inf', num(wall))
return begun(hold(owner, request, lapse, '0'))
