-- ARGV: 5 digest, 6 deadline (ms) or nothing, 7 route.
-- Answers {'conflict'} | {'committed', result} | {'done', result} | {'held', for how long} | {'waiting', cancelled}.
if not enrol(ARGV[5], ARGV[6], ARGV[7]) then return { 'conflict' } end
local phase = get('phase')
if phase == 'committed' or phase == 'done' then return { phase, get('result') } end
linger()
if phase == 'held' then
  local left = tonumber(get('lapses')) - wall
  if left > 0 then return { 'held', num(left) } end
end
return { 'waiting', get('cancelled') or '0' }
