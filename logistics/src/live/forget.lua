-- Removes positions of one shard that were recorded before a time.
--
-- KEYS: positions hash, hash of receipts. ARGV: the time (8 bytes), drivers (8 bytes each).
-- Answers how many were removed. A position that has come since they were looked at stays.
local since = struct.unpack('>i8', ARGV[1])
local removed = 0
for at = 1, #ARGV[2], 8 do
  local driver = string.sub(ARGV[2], at, at + 7)
  local position = redis.call('HGET', KEYS[1], driver)
  if position and struct.unpack('>i8', position, 9) < since then
    redis.call('HDEL', KEYS[1], driver)
    redis.call('HDEL', KEYS[2], driver)
    removed = removed + 1
  end
end
return removed
