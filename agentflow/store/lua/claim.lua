-- Claim a node: dependencies, locks, concurrency of the run and of the fleet, all or nothing.
-- ARGV: 1 run, 2 node, 3 worker, 4 lease ttl (ms), 5 states that may be claimed
-- returns: 'granted', fence, attempt, edges (lines), 'generation', then the answer; or
--          'parked', reason, '', '', '', then the answer; or 'refused', why, '', '', '', then the answer
local node, worker, ttl = ARGV[2], ARGV[3], tonumber(ARGV[4])
local n = redis.call('HMGET', nkey(node), 'state', 'role', 'role_limit', 'locks', 'woken', 'tolerant', 'queue',
  'complexity', 'fence', 'edges', 'attempt')
local state, role, queue = n[1], n[2], queue_of(n[7], n[2])
if not state then return answer({'refused', 'unknown', '', '', ''}) end
if not from(state, ARGV[5]) then return answer({'refused', state, '', '', ''}) end

local r = redis.call('HMGET', RUN, 'state', 'generation')
local run_state = r[1]
local tolerant = n[6] == '1'   -- the integration: it closes the run, so nothing holds it
local mine = n[4] and n[4] ~= '[]' and wants(node) or {}
local is_woken = n[5] == '1'
local reason, wide, aside = '', false, false
if not tolerant then
  if run_state ~= 'open' then
    reason = standing(run_state)
  else
    reason = held_back(node, role)
    aside = reason ~= ''
    local other, path = nil, nil
    if not aside then other, path = blocked(node, mine, true) end
    if aside then
      -- Nothing is taken before everything is free.
    elseif other then
      reason = stand_behind(node, other, path)
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
  if is_woken then enter(role, queue, -1, n[8]) end
  park(node, reason, wide, aside)
  -- One that was next in a queue no longer is: others may have waited for just that.
  if is_woken then wake() elseif is_contended() then wake_fair() end
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
for _, other in ipairs(cjson.decode(n[10] or '[]')) do edge(other) end
for _, other in ipairs(writers_of(mine)) do edge(other) end

acquire(part('locks'), node, mine)
if not is_woken then enter(role, queue, 1, n[8]) end
redis.call('ZREM', part('ready'), node)
step_out(node)
-- Never below the clock: a server that came back without the end of its log gives no token for a second time.
local fence = math.max(tonumber(n[9] or 0) + 1, NOW)
local attempt = tonumber(n[11] or 0) + 1
redis.call('HSET', nkey(node), 'state', 'running', 'fence', fence, 'attempt', attempt, 'woken', 0, 'worker', worker,
  'started_ms', NOW, 'lease_ms', NOW + ttl, 'reason', '', 'edges', #edges > 0 and cjson.encode(edges) or '[]')
redis.call('ZADD', 'af:leases', NOW + ttl, ARGV[1] .. '|' .. node .. '|' .. fence)
set_apart(node, fence)
emit('node.started', node, 'running', attempt, worker)
if not is_woken and is_contended() then wake_fair() end
return answer({'granted', fence, attempt, table.concat(edges, '\n'), r[2] or 1})
