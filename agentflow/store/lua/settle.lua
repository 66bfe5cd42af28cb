-- Settle the end of an attempt, once: succeeded, failed or cancelled.
-- ARGV: 1 run, 2 node, 3 fence, 4 state, 5 states that it may come from, 6 reason, 7 commit,
--       8 paths written (lines), 9 sequence that an optimistic merge was checked against ('' when declared),
--       10 facts (JSON object: further fields of the node), 11 text (hand-off or report)
-- returns: 'settled' | 'superseded', state | 'moved', sequence | 'locked', reason; then the answer
local node, fence, state, reason, commit = ARGV[2], ARGV[3], ARGV[4], ARGV[6], ARGV[7]
local n = redis.call('HMGET', nkey(node), 'state', 'fence', 'role', 'started_ms', 'tolerant', 'pending_commit')
if n[2] ~= fence or not from(n[1] or '', ARGV[5]) then
  redis.call('ZREM', 'af:leases', ARGV[1] .. '|' .. node .. '|' .. fence)  -- a lease on nothing is void
  return answer({'superseded', n[1] or 'unknown'})
end

-- How long nodes take, for the next plan's ranks: `af:durations:<project>` holds `role|node` -> mean (ms), a blank,
-- how many (at most WINDOW, so that the mean follows what changes). Beyond MOST names one goes for each new one.
local DURATIONS_TTL_S, DURATIONS_MOST, DURATIONS_WINDOW = 90 * 24 * 3600, 1000, 20
local function note_duration(project)
  local key, field = 'af:durations:' .. project, n[3] .. '|' .. node
  local mean, count = string.match(redis.call('HGET', key, field) or '', '^(%S+) (%d+)$')
  local took = math.max(0, NOW - (tonumber(n[4]) or NOW))
  mean, count = tonumber(mean or 0), math.min((tonumber(count) or 0) + 1, DURATIONS_WINDOW)
  if redis.call('HSET', key, field, string.format('%.1f %d', mean + (took - mean) / count, count)) == 1 then
    redis.call('EXPIRE', key, DURATIONS_TTL_S)
    if redis.call('HLEN', key) > DURATIONS_MOST then redis.call('HDEL', key, redis.call('HRANDFIELD', key)) end
  end
end

local paths = {}
for path in string.gmatch(ARGV[8], '[^\n]+') do paths[#paths + 1] = path end
if state == 'succeeded' and ARGV[9] ~= '' and #paths > 0 then
  local seq = redis.call('HGET', RUN, 'seq') or '0'
  if seq ~= ARGV[9] then return answer({'moved', seq}) end
  local mine = redis.call('EXISTS', part('locks')) == 1 and wants(node)
  for at = 1, mine and #paths or 0, 100 do
    local asked = {}
    for i = at, math.min(at + 99, #paths) do asked[#asked + 1] = 'w:' .. paths[i] end
    local holder, path = conflict(part('locks'), node, asked, mine, true)
    if holder then return answer({'locked', 'lock: ' .. path .. ' is held for ' .. holder}) end
  end
end

leave(node, fence)
local facts, fields = cjson.decode(ARGV[10]), {'commit', commit, 'settled_fence', fence}
for field, value in pairs(facts) do
  fields[#fields + 1] = field
  fields[#fields + 1] = tostring(value)
end
redis.call('HSET', nkey(node), unpack(fields))
if ARGV[11] ~= '' then redis.call('HSET', part('texts'), node, ARGV[11]) end
if state == 'succeeded' and commit ~= '' then wrote(node, paths) end
if state == 'failed' then redis.call('HINCRBY', nkey(node), 'failures', 1) end
if state == 'succeeded' and n[5] ~= '1' and (n[6] or '') == '' and not facts.reused then
  -- Work that only waited to be merged, or that another run had done, says nothing about how long it takes.
  local project = redis.call('HGET', RUN, 'project') or ''
  if project ~= '' then note_duration(project) end
end
if facts.reused then emit('node.reused', node, '', redis.call('HGET', nkey(node), 'attempt'), facts.reused, commit) end
if state == 'failed' then fail(node, reason) else finish(node, state, reason) end
if n[5] ~= '1' and state == 'failed' and is_counted(facts.code) then note_failure(n[3], node, reason) end
-- Work that another run had done says nothing of the role.
if n[5] ~= '1' and state == 'succeeded' and not facts.reused then note_success(n[3]) end
wake()
return answer({'settled', state})
