-- ARGV: 5 digest, 6 deadline (ms) or nothing, 7 route, 8 owner, 9 request, 10 lapse, 11 age at which data is not new
-- any more, 12 most running jobs of the tenant or nothing.
-- Answers {'conflict'} | {'committed', result} | {'done', result} | {'held', for how long} | {'busy', running}
-- | {'begun', number, cancelled, history}.
local owner, request, lapse, settled = ARGV[8], ARGV[9], tonumber(ARGV[10]), tonumber(ARGV[11])

if not enrol(ARGV[5], ARGV[6], ARGV[7]) then return { 'conflict' } end
local phase = get('phase')
if phase == 'committed' or phase == 'done' then return { phase, get('result') } end
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
redis.call('ZREMRANGEBYSCORE', running, '-inf', num(wall))
return begun(hold(owner, request, lapse, '0'))
