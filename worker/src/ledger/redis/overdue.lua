-- Stands alone after the age. KEYS: 2 deadlines. ARGV: 2 how many at most. Answers names of jobs.
return redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', num(math.floor(wall / 1000)), 'LIMIT', 0, ARGV[2])
