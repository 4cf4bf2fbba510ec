-- ARGV: 5 for how long the result is kept (ms). Answers 1 when that is news.
if get('phase') ~= 'committed' then return 0 end
set('phase', 'done')
redis.call('HDEL', job, 'route', 'deadline')
redis.call('ZREM', unpublished, name)
redis.call('PEXPIRE', job, ARGV[5])
return 1
