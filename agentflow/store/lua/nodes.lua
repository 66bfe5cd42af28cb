-- Admission, parking and endings, shared by every script (loaded after locks.lua).
-- Room for one more node of this role; '' or the reason why not.
local function room(role, limit)
  local most = tonumber(redis.call('HGET', RUN, 'max_concurrent') or 0)
  if most > 0 and tonumber(redis.call('HGET', RUN, 'in_flight') or 0) >= most then
    return 'run limit: ' .. most .. ' at a time'
  end
  limit = tonumber(limit or 0)
  if limit > 0 and tonumber(redis.call('HGET', part('roles'), role) or 0) >= limit then
    return 'role limit: ' .. limit .. ' ' .. role .. ' at a time'
  end
  return ''
end

local function enter(role, n)
  redis.call('HINCRBY', RUN, 'in_flight', n)
  redis.call('HINCRBY', part('roles'), role, n)
end

local function make_ready(node)
  redis.call('HSET', nkey(node), 'state', 'ready', 'ready_ms', NOW, 'reason', '')
  redis.call('ZADD', part('ready'), NOW, node)
end

-- Wake parked nodes, best first, while there is room. A woken node keeps its place among the lock
-- waiters and holds its room (`woken` = 1) until it is claimed, so nobody can slip in between.
local function wake()
  if redis.call('HGET', RUN, 'state') ~= 'open' then return end
  local most = tonumber(redis.call('HGET', RUN, 'max_concurrent') or 0)
  for _, node in ipairs(redis.call('ZRANGE', part('parked'), 0, -1)) do
    if most > 0 and tonumber(redis.call('HGET', RUN, 'in_flight') or 0) >= most then return end
    local n = redis.call('HMGET', nkey(node), 'role', 'role_limit', 'attempt')
    if room(n[1], n[2]) == '' and not blocked(node, wants(node)) then
      redis.call('ZREM', part('parked'), node)
      make_ready(node)
      redis.call('HSET', nkey(node), 'woken', 1)
      enter(n[1], 1)
      woken[#woken + 1] = node
      emit('node.woken', node, 'ready', n[3])
    end
  end
end

-- Park a node with its reason; it holds nothing.
local function park(node, reason)
  local n = redis.call('HMGET', nkey(node), 'order', 'locks', 'attempt')
  redis.call('HSET', nkey(node), 'state', 'parked', 'reason', reason, 'woken', 0)
  redis.call('ZREM', part('ready'), node)
  redis.call('ZADD', part('parked'), n[1] or 0, node)
  if n[2] and n[2] ~= '[]' then
    redis.call('ZADD', part('lockwait'), 'NX', redis.call('HINCRBY', RUN, 'arrivals', 1), node)
  end
  emit('node.parked', node, 'parked', n[3], reason)
end

-- Leave the running state: lease, room and locks are given back.
local function leave(node, fence)
  redis.call('ZREM', 'af:leases', ARGV[1] .. '|' .. node .. '|' .. fence)
  enter(redis.call('HGET', nkey(node), 'role'), -1)
  release(node, wants(node))
  local started = tonumber(redis.call('HGET', nkey(node), 'started_ms') or NOW)
  redis.call('HINCRBY', nkey(node), 'busy_ms', math.max(0, NOW - started))
end

-- Give back what a node that is not running may hold: its place in the queues and a woken node's room.
local function forget(node)
  if redis.call('HGET', nkey(node), 'woken') == '1' then
    enter(redis.call('HGET', nkey(node), 'role'), -1)
    redis.call('HSET', nkey(node), 'woken', 0)
  end
  redis.call('ZREM', part('ready'), node)
  redis.call('ZREM', part('parked'), node)
  redis.call('ZREM', part('lockwait'), node)
  redis.call('ZREM', 'af:delayed', ARGV[1] .. '|' .. node)
end

-- Enter a terminal state and tell the children; a failure skips what needed it, breadth first.
local function finish(first, first_state, first_reason)
  local queue = {{first, first_state, first_reason}}
  local at = 1
  while queue[at] do
    local node, state, reason = queue[at][1], queue[at][2], queue[at][3]
    at = at + 1
    local n = redis.call('HMGET', nkey(node), 'children', 'optional', 'attempt', 'commit')
    redis.call('HSET', nkey(node), 'state', state, 'reason', reason, 'ended_ms', NOW)
    redis.call('SREM', part('open'), node)
    redis.call('ZREM', part('lockwait'), node)
    redis.call('HINCRBY', RUN, 'nodes_left', -1)
    ended[#ended + 1] = node
    emit('node.settled', node, state, n[3], reason, n[4])
    local follow = state == 'cancelled' and 'cancelled' or 'skipped'
    local harmless = state == 'succeeded' or n[2] == '1'
    for _, child in ipairs(cjson.decode(n[1] or '[]')) do
      local left = redis.call('HINCRBY', nkey(child), 'parents_left', -1)
      local c = redis.call('HMGET', nkey(child), 'state', 'tolerant')
      if c[1] == 'pending' and c[2] ~= '1' then
        if not harmless then
          -- Marked at once: another parent may end in this same cascade.
          redis.call('HSET', nkey(child), 'state', follow)
          queue[#queue + 1] = {child, follow, node .. ' ' .. state}
        elseif left == 0 then
          make_ready(child)
          ready[#ready + 1] = child
          emit('node.ready', child, 'ready')
        end
      end
    end
  end
  -- The integration follows when nothing else is left: a skip may end the last nodes of the DAG while
  -- work that they will never use is still running.
  if redis.call('SCARD', part('open')) == 1 then
    local left = redis.call('SMEMBERS', part('open'))
    local c = redis.call('HMGET', nkey(left[1]), 'state', 'tolerant')
    if c[1] == 'pending' and c[2] == '1' then
      make_ready(left[1])
      ready[#ready + 1] = left[1]
      emit('node.ready', left[1], 'ready')
    end
  end
end

-- Everything that has not started ends as cancelled, except the integration, which closes the run.
local function cancel_waiting(reason)
  for _, node in ipairs(redis.call('SMEMBERS', part('open'))) do
    local n = redis.call('HMGET', nkey(node), 'state', 'tolerant')
    if n[1] ~= 'running' and n[2] ~= '1' and redis.call('SISMEMBER', part('open'), node) == 1 then
      forget(node)
      finish(node, 'cancelled', reason)
    end
  end
end

-- Lists travel as lines: cjson cannot tell an empty list from an empty object.
local function answer(head)
  head[#head + 1] = table.concat(ready, '\n')
  head[#head + 1] = table.concat(woken, '\n')
  head[#head + 1] = table.concat(ended, '\n')
  return head
end
