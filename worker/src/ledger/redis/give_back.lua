-- ARGV: 5 number, 6 the failed attempt as JSON. Answers 1 (ours), 2 (ours and cancelled) or 0 (lost).
if get('number') ~= ARGV[5] then return 0 end
local phase = get('phase')
if phase == 'held' then
  note(ARGV[6])
  set('phase', 'free')
  redis.call('ZREM', running, id)
-- The answer to an earlier try may have been lost.
elseif phase ~= 'free' then
  return 0
end
linger()
return get('cancelled') == '1' and 2 or 1
