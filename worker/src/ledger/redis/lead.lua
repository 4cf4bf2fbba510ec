-- Stands alone after the age. KEYS: 2 who leads. ARGV: 2 who asks, 3 for how long it leads then (microseconds).
-- Answers 0 when it leads now, else for how long somebody else does.
local lead = redis.call('HMGET', KEYS[2], 'owner', 'ends')
local left = (tonumber(lead[2] or '0')) - wall
-- A clock that was set back makes nobody lead for longer.
if lead[1] and lead[1] ~= ARGV[2] and left > 0 and left <= tonumber(ARGV[3]) then return num(left) end
redis.call('HSET', KEYS[2], 'owner', ARGV[2], 'ends', num(wall + ARGV[3]))
redis.call('PEXPIRE', KEYS[2], num(math.ceil(ARGV[3] / 1000) * 10))
return '0'
