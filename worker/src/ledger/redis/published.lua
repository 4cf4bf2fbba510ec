-- ARGV: 5 for how long the result is kept (ms), 6 where it was asked to go. Answers 1 when that is news.
local phase = get('phase')
if phase == 'committed' or phase == 'done' then set('told', ARGV[6]) end
if phase ~= 'committed' then return 0 end
set('phase', 'done')
redis.call('HDEL', job, 'route', 'deadline')
redis.call('ZREM', unpublished, name)
redis.call('PEXPIRE', job, ARGV[5])
return 1
