-- Stands before every script. KEYS[1] is the epoch, ARGV[1] the longest step of the age in microseconds.
--
-- wall: the server's time, in microseconds since 1970. It may be set forward or back at any moment.
-- age: for how long this data has existed, in microseconds: 0 when it is new. It never goes back, and goes
--   forward by no more than one step between two scripts, so that a clock that is set forward ends no lease.

-- Lua would write a number of this size with an exponent.
local function num(x) return string.format('%.0f', x) end

local age, wall
do
  local time = redis.call('TIME')
  wall = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local was = redis.call('HMGET', KEYS[1], 'age', 'seen')
  if was[1] and was[2] then
    local step = wall - tonumber(was[2])
    age = tonumber(was[1]) + math.max(0, math.min(step, tonumber(ARGV[1])))
    -- Not every script is worth a write; what is not written now is counted by the next one.
    if step < 0 or step >= 1000 then
      redis.call('HSET', KEYS[1], 'age', num(age), 'seen', num(wall))
    end
  else
    age = 0
    redis.call('HSET', KEYS[1], 'age', '0', 'seen', num(wall), 'born', num(wall))
  end
end
