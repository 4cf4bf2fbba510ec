-- Stands alone after the age. KEYS: 2 the tenant's running jobs. Answers how many there are.
return redis.call('ZCOUNT', KEYS[2], '(' .. num(wall), '+inf')
