-- Moves the current positions of one shard forward and announces those that moved.
--
-- KEYS: positions hash, epoch, frame counter. ARGV: channel, an epoch (8 bytes) to start with if
-- there is none, positions (64 bytes each, at most one a driver, contracts::position).
-- Answers the epoch and how many positions moved.
--
-- One script, so that a frame's number, its content and the stored positions agree.
local epoch = redis.call('GET', KEYS[2])
if not epoch then
  epoch = ARGV[2]
  redis.call('SET', KEYS[2], epoch)
end

-- recorded_at, seq and the event id in halves: a double holds each of them exactly, which it would
-- not do for the event id as one number.
local function key(bytes, at)
  return struct.unpack('>i8I4I4I4', bytes, at)
end

local function newer(bytes, at, current)
  local t, s, h, l = key(bytes, at)
  local ct, cs, ch, cl = key(current, 9)
  if t ~= ct then return t > ct end
  if s ~= cs then return s > cs end
  if h ~= ch then return h > ch end
  return l > cl
end

local positions = ARGV[3]
local moved = {}
for at = 1, #positions, 64 do
  local driver = string.sub(positions, at, at + 7)
  local current = redis.call('HGET', KEYS[1], driver)
  if not current or newer(positions, at + 8, current) then
    local position = string.sub(positions, at, at + 63)
    redis.call('HSET', KEYS[1], driver, position)
    moved[#moved + 1] = position
  end
end

local number
if #moved > 0 then
  number = redis.call('INCR', KEYS[3])
else
  number = tonumber(redis.call('GET', KEYS[3]) or 0)
end
redis.call('PUBLISH', ARGV[1],
  struct.pack('>B', 1) .. epoch .. struct.pack('>I8', number) .. table.concat(moved))
return { epoch, #moved }
