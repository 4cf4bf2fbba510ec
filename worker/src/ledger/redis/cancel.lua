-- Answers 1 (marked) or 0 (too late).
local phase = get('phase')
if phase == 'committed' or phase == 'done' then return 0 end
set('cancelled', '1')
linger()
return 1
