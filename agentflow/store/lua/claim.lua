-- Claim a node: dependencies, locks, concurrency of the run and of the fleet, all or nothing.
-- ARGV: 1 run, 2 node, 3 worker, 4 lease ttl (ms), 5 states that may be claimed
-- returns: 'granted', fence, attempt, edges (lines), 'generation', then the answer; or
--          'parked', reason, '', '', '', then the answer; or 'refused', why, '', '', '', then the answer
local node, worker, ttl = ARGV[2], ARGV[3], tonumber(ARGV[4])
local n = redis.call('HMGET', nkey(node), 'state', 'role', 'role_limit', 'locks', 'woken', 'tolerant', 'queue')
local state, role, queue = n[1], n[2], queue_of(n[7], n[2])
if not state then return answer({'refused', 'unknown', '', '', ''}) end
if not from(state, ARGV[5]) then return answer({'refused', state, '', '', ''}) end

local run_state = redis.call('HGET', RUN, 'state')
local tolerant = n[6] == '1'   -- the integration: it closes the run, so nothing holds it
local mine = wants(node)
local is_woken = n[5] == '1'
local reason, wide = '', false
if not tolerant then
  if run_state ~= 'open' then
    reason = 'the run is ' .. (run_state or 'gone')
  else
    reason = held_back(node, role)
    local other, path = nil, nil
    if reason == '' then other, path = blocked(node, mine) end
    if reason ~= '' then
      -- Nothing is taken before everything is free.
    elseif other then
      reason = 'lock: ' .. (path == '' and '**' or path) .. ' is held for ' .. other
    elseif not is_woken then
      reason = full(role, n[3])
      if reason == '' then
        reason = no_room(role, queue, true)
        if reason == '' then reason = outranked(node) end
        if reason == '' then reason = barred() end
        wide = reason ~= ''
      end
    end
  end
end
if not is_woken then hunger(queue, -1) end
if reason ~= '' then
  if is_woken then enter(role, queue, -1) end
  park(node, reason, wide)
  -- One that was next in a queue no longer is: others may have waited for just that.
  if is_woken then wake() elseif redis.call('EXISTS', 'af:waiting') == 1 then wake_fair() end
  return answer({'parked', reason, '', '', ''})
end

-- The last settled writers of what it locks are parents too: a dynamic edge.
local edges, seen = {}, {}
local function edge(other)
  if other ~= node and not seen[other] then
    seen[other] = true
    edges[#edges + 1] = other
  end
end
for _, other in ipairs(cjson.decode(redis.call('HGET', nkey(node), 'edges') or '[]')) do edge(other) end
if #mine > 0 then
  local all = redis.call('HGETALL', part('writers'))
  for i = 1, #all, 2 do
    for _, path in ipairs(mine) do
      if overlap(all[i], path) then edge(all[i + 1]) end
    end
  end
end

acquire(part('locks'), node, mine)
if not is_woken then enter(role, queue, 1) end
redis.call('ZREM', part('ready'), node)
redis.call('ZREM', part('lockwait'), node)
local fence = redis.call('HINCRBY', nkey(node), 'fence', 1)
local attempt = redis.call('HINCRBY', nkey(node), 'attempt', 1)
redis.call('HSET', nkey(node), 'state', 'running', 'woken', 0, 'worker', worker, 'started_ms', NOW,
  'lease_ms', NOW + ttl, 'reason', '', 'edges', #edges > 0 and cjson.encode(edges) or '[]')
redis.call('ZADD', 'af:leases', NOW + ttl, ARGV[1] .. '|' .. node .. '|' .. fence)
emit('node.started', node, 'running', attempt, worker)
if not is_woken and redis.call('EXISTS', 'af:waiting') == 1 then wake_fair() end
return answer({'granted', fence, attempt, table.concat(edges, '\n'), redis.call('HGET', RUN, 'generation') or 1})
