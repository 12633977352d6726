-- Moves the current positions of one shard forward and announces those that moved.
--
-- KEYS: positions hash, epoch, frame counter, hash of receipts. ARGV: channel, an epoch (8 bytes)
-- to start with if there is none, positions (64 bytes each, at most one a driver,
-- contracts::position), their lags (4 bytes each, contracts::received).
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
local function newer(bytes, at, current)
  local time, current_time = struct.unpack('>i8', bytes, at), struct.unpack('>i8', current, 9)
  if time ~= current_time then return time > current_time end
  local seq, high, low = struct.unpack('>I4I4I4', bytes, at + 8)
  local current_seq, current_high, current_low = struct.unpack('>I4I4I4', current, 17)
  if seq ~= current_seq then return seq > current_seq end
  if high ~= current_high then return high > current_high end
  return low > current_low
end

-- One command to read and one to write: each costs more than the work on a position.
local positions = ARGV[3]
local drivers = {}
for at = 1, #positions, 64 do
  drivers[#drivers + 1] = string.sub(positions, at, at + 7)
end
local current = {}
if #drivers > 0 then
  current = redis.call('HMGET', KEYS[1], unpack(drivers))
end
local lags = ARGV[4]
local moved, changes, moved_lags, receipts = {}, {}, {}, {}
for i, driver in ipairs(drivers) do
  local at = (i - 1) * 64 + 1
  if not current[i] or newer(positions, at + 8, current[i]) then
    local position = string.sub(positions, at, at + 63)
    moved[#moved + 1] = position
    local lag = string.sub(lags, i * 4 - 3, i * 4)
    moved_lags[#moved_lags + 1] = lag
    changes[#changes + 1] = driver
    changes[#changes + 1] = position
    receipts[#receipts + 1] = driver
    receipts[#receipts + 1] = string.sub(position, 9, 16) .. lag
  end
end
if #changes > 0 then
  redis.call('HSET', KEYS[1], unpack(changes))
  redis.call('HSET', KEYS[4], unpack(receipts))
end

local number
if #moved > 0 then
  number = redis.call('INCR', KEYS[3])
else
  number = tonumber(redis.call('GET', KEYS[3]) or 0)
end
-- Lags share records as long as a position, behind a driver id of 0.
for from = 1, #moved_lags, 14 do
  local record = string.rep('\0', 8)
    .. table.concat(moved_lags, '', from, math.min(from + 13, #moved_lags))
  moved[#moved + 1] = record .. string.rep('\0', 64 - #record)
end
redis.call('PUBLISH', ARGV[1],
  struct.pack('>B', 1) .. epoch .. struct.pack('>I8', number) .. table.concat(moved))
return { epoch, #moved_lags }
