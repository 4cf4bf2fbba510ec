-- ARGV: 5 owner, 6 request, 7 lapse, 8 age at which data is not new any more, 9 grace (ms).
-- Answers {'ended'} | {'not yet'} | {'seized', number, digest, route, cancelled, overdue, history}.
local owner, request, lapse, settled = ARGV[5], ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])

local phase, deadline = get('phase'), tonumber(get('deadline')) or math.huge
if phase == 'committed' or phase == 'done' or not get('digest') then
  redis.call('ZREM', deadlines, name)
  return { 'ended' }
end
if age < settled then return { 'not yet' } end

local overdue, cancelled = deadline <= wall_ms, get('cancelled') == '1'
local function seized(number)
  return { 'seized', number, get('digest'), get('route') or '', cancelled and '1' or '0', overdue and '1' or '0',
    history() }
end

local alive = phase == 'held' and tonumber(get('lapses')) > wall
if alive then
  -- The answer to an earlier try may have been lost.
  if get('request') == request then return seized(get('number')) end
  if get('seized') == '1' or deadline + tonumber(ARGV[9]) > wall_ms then return { 'not yet' } end
elseif not overdue and not cancelled then
  return { 'not yet' }
end
redis.call('ZREM', running, id)
return seized(hold(owner, request, lapse, '1'))
