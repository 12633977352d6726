//! The scripts that Redis runs, and the names of its keys.

use redis::Script;

/// Names under one prefix.
#[derive(Debug, Clone)]
pub struct Names {
    prefix: String,
}

impl Names {
    /// Names that begin with `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self { prefix: prefix.to_owned() }
    }

    /// The prefix.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The hash that everything hangs on.
    pub fn control(&self) -> String {
        format!("{}:control", self.prefix)
    }

    /// What nodes say about themselves.
    pub fn stats(&self) -> String {
        format!("{}:stats", self.prefix)
    }

    /// Announcements.
    pub fn changes(&self) -> String {
        format!("{}:changes", self.prefix)
    }

    /// Acknowledgements for one node.
    pub fn acks(&self, node: &str) -> String {
        format!("{}:acks:{node}", self.prefix)
    }
}

/// A document's name within its era.
pub(crate) fn suffix(restaurant: i64, kind: &str) -> String {
    format!("{kind}:{restaurant}")
}

/// Makes the hash when it is not there. Leases may run that were lost with it, so nothing is
/// complete before the longest of them has ended. Its first argument is random, its second the length of a lease.
const ENSURE: &str = r"
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local epoch = redis.call('HGET', KEYS[1], 'epoch')
if not epoch then
    epoch = ARGV[1]
    redis.call('HSET', KEYS[1], 'epoch', epoch, 'seq', 0, 'fence', now + ARGV[2],
               'era', epoch, 'lists', epoch)
end
";

/// KEYS: control, stats. ARGV: random, lease ms, node, what the node says about itself.
/// Answers {epoch, seq}.
pub(super) fn renew() -> Script {
    Script::new(&format!(
        "{ENSURE}{}",
        r"
redis.call('HSET', KEYS[1], 'n:' .. ARGV[3], now + ARGV[2])
redis.call('HSET', KEYS[2], ARGV[3], ARGV[4])
return {epoch, tonumber(redis.call('HGET', KEYS[1], 'seq'))}
"
    ))
}

/// Deletes, numbers and publishes. KEYS: control, stats. ARGV: random, lease ms, node, prefix,
/// channel, the announcement, whether lists and whether all are dropped (1 or 0), then names of
/// documents. Answers {epoch, seq, ms to the fence, node, ms to the end of its lease, …}.
pub(super) fn announce() -> Script {
    Script::new(&format!(
        "{ENSURE}{}",
        r"
if ARGV[8] == '1' then
    redis.call('HSET', KEYS[1], 'era', ARGV[1])
end
if ARGV[7] == '1' or ARGV[8] == '1' then
    redis.call('HSET', KEYS[1], 'lists', ARGV[1])
end
local base = ARGV[4] .. ':' .. redis.call('HGET', KEYS[1], 'era') .. ':'
for i = 9, #ARGV do
    -- The lease goes too: whoever holds it has read what is old now.
    redis.call('DEL', base .. ARGV[i], base .. 'lease:' .. ARGV[i])
end
local seq = redis.call('HINCRBY', KEYS[1], 'seq', 1)
redis.call('PUBLISH', ARGV[5], epoch .. ' ' .. seq .. ' ' .. ARGV[3] .. ' ' .. ARGV[6])
local answer = {epoch, seq, redis.call('HGET', KEYS[1], 'fence') - now}
local fields = redis.call('HGETALL', KEYS[1])
for i = 1, #fields, 2 do
    if string.sub(fields[i], 1, 2) == 'n:' then
        local left = fields[i + 1] - now
        local node = string.sub(fields[i], 3)
        if left > 0 then
            answer[#answer + 1] = node
            answer[#answer + 1] = left
        elseif left < -60000 then
            redis.call('HDEL', KEYS[1], fields[i])
            redis.call('HDEL', KEYS[2], node)
        end
    end
end
return answer
"
    ))
}

/// A node takes its leave. KEYS: control, stats. ARGV: node.
pub(super) fn leave() -> Script {
    Script::new(
        r"
redis.call('HDEL', KEYS[1], 'n:' .. ARGV[1])
redis.call('HDEL', KEYS[2], ARGV[1])
",
    )
}

/// Looks a document up, and at a miss hands out the right to fill it. KEYS: control. ARGV: random,
/// lease ms of nodes, prefix, name, 'list' or 'document', token, lease ms of the filler.
/// A value says in its bytes 9 to 12 with how many ms left it is fetched again, by the first who
/// gets its lease.
/// Answers {0, value, ms left}, {1, value's key, lease's key} for whoever may fill, or {2}.
pub(crate) fn get() -> Script {
    Script::new(&format!(
        "{ENSURE}{}",
        r"
local base = ARGV[3] .. ':' .. redis.call('HGET', KEYS[1], 'era') .. ':'
if ARGV[5] == 'list' then
    base = base .. redis.call('HGET', KEYS[1], 'lists') .. ':'
end
local key, lease = base .. ARGV[4], base .. 'lease:' .. ARGV[4]
local value = redis.call('GET', key)
local left = 0
if value then
    left = redis.call('PTTL', key)
    if left > struct.unpack('>I4', string.sub(value, 9, 12)) then
        return {0, value, left}
    end
end
if redis.call('SET', lease, ARGV[6], 'NX', 'PX', ARGV[7]) then
    return {1, key, lease}
end
if value then
    return {0, value, left}
end
return {2}
"
    ))
}

/// Stores what was read, when the lease still stands and nothing newer is there. A value begins
/// with its version as 8 bytes, so that values compare as text. KEYS: value, lease. ARGV: token,
/// value, ms to keep it. Answers 1 when it was stored.
pub(crate) fn fill() -> Script {
    Script::new(
        r"
if redis.call('GET', KEYS[2]) ~= ARGV[1] then
    return 0
end
redis.call('DEL', KEYS[2])
local there = redis.call('GETRANGE', KEYS[1], 0, 7)
if #there == 8 and there > string.sub(ARGV[2], 1, 8) then
    return 0
end
redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3])
return 1
",
    )
}
