-- Admission, parking and endings, shared by every script (loaded after budget.lua).
-- What holds a node back besides its locks and its room: a pause, a budget, its class; '' or the reason.
local function held_back(node, role)
  local why = paused(role)
  if why == '' then why = over_budget(node, role) end
  if why == '' then why = class_full(node) end
  return why
end

-- Room in the run itself for one more node of this role; '' or the reason why not.
local function full(role, limit, more)
  local most = tonumber(redis.call('HGET', RUN, 'max_concurrent') or 0)
  if most > 0 and tonumber(redis.call('HGET', RUN, 'in_flight') or 0) + (more or 0) >= most then
    return 'run limit: ' .. most .. ' at a time'
  end
  limit = tonumber(limit or 0)
  -- A limit for the role in the whole fleet stands in place of the run's own.
  if limit > 0 and tonumber(redis.call('HGET', part('roles'), role) or 0) >= limit
    and tonumber(redis.call('HGET', 'af:limits', 'role:' .. role) or 0) == 0 then
    return 'role limit: ' .. limit .. ' ' .. role .. ' at a time'
  end
  return ''
end

-- Nodes of a run whose messages lie in different queues arrive in any order. Where the run's own limit leaves
-- few places, they are left to the more important ones that have just become ready; '' or whom it is left to.
-- After YIELD_MS nobody waits for them any more: perhaps no worker serves their role.
local YIELD_MS = 2000
local function importance(order) return math.floor((tonumber(order or 0) + 5e5) / 1e6) end
local function outranked(node)
  local r = redis.call('HMGET', RUN, 'mixed', 'max_concurrent', 'in_flight')
  local most = tonumber(r[2] or 0)
  if r[1] ~= '1' or most == 0 then return '' end
  local free, mine = most - tonumber(r[3] or 0), importance(redis.call('HGET', nkey(node), 'order'))
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', part('ready'), NOW - YIELD_MS, '+inf')) do
    local o = redis.call('HMGET', nkey(other), 'order', 'woken')
    if other ~= node and o[2] ~= '1' and importance(o[1]) < mine then
      free = free - 1
      if free <= 0 then return 'priority: ' .. other .. ' is more important and is next' end
    end
  end
  return ''
end

local function queue_of(queue, role) return queue and queue ~= '' and queue or role end

local function make_ready(node)
  redis.call('HSET', nkey(node), 'state', 'ready', 'ready_ms', NOW, 'reason', '')
  redis.call('ZADD', part('ready'), NOW, node)
end

-- Ready, and its message is (or must be) on its way.
local function offer(node)
  make_ready(node)
  local n = redis.call('HMGET', nkey(node), 'queue', 'role')
  hunger(queue_of(n[1], n[2]), 1)
end

-- A woken node keeps its place among the lock waiters and holds its room (`woken` = 1) until it is
-- claimed, so nobody can slip in between.
local function wake_node(node, role, queue, attempt)
  redis.call('ZREM', part('parked'), node)
  make_ready(node)
  redis.call('HSET', nkey(node), 'woken', 1)
  enter(role, queue, 1)
  emit('node.woken', node, 'ready', attempt)
  if RUN_ID == ARGV[1] then woken[#woken + 1] = node else others[#others + 1] = RUN_ID .. '|' .. node end
end

-- Look at this run's parked nodes, best first: what nothing in the run holds back is woken, or, where the
-- fleet has no room or other runs wait for it too, put among those that wait for room.
local function wake_own(contended)
  if redis.call('HGET', RUN, 'state') ~= 'open' then return end
  local put, taken = 0, {}
  for _, node in ipairs(redis.call('ZRANGE', part('parked'), 0, -1)) do
    local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'role_limit', 'attempt', 'locks')
    local why = full(n[1], n[3], put)
    if string.sub(why, 1, 3) == 'run' then return end
    if why == '' then why = held_back(node, n[1]) end
    if why == '' and not taken[n[5]] and not blocked(node, wants(node)) then
      -- It stays first in the line for its locks: whoever wants the same need not ask any more.
      if n[5] and n[5] ~= '[]' then taken[n[5]] = true end
      local queue = queue_of(n[2], n[1])
      why = no_room(n[1], queue, false)
      if why == '' then why = outranked(node) end
      if why == '' then why = contended and 'fleet: waits for its turn' or barred() end
      if why == '' then
        wake_node(node, n[1], queue, n[4])
      else
        redis.call('HSET', nkey(node), 'reason', why)
        await(node, n[1], queue)
        put = put + 1
      end
    end
  end
end

-- Whether a more important node of this run, of another class, waits for room too and has it now.
local function goes_after(node)
  if redis.call('HGET', RUN, 'mixed') ~= '1' then return false end
  local mine = importance(redis.call('HGET', nkey(node), 'order'))
  for _, other in ipairs(redis.call('ZRANGE', part('waiting'), 0, -1)) do
    local o = redis.call('HMGET', nkey(other), 'role', 'queue', 'role_limit', 'order')
    if importance(o[4]) >= mine then return false end
    if full(o[1], o[3]) == '' and no_room(o[1], queue_of(o[2], o[1]), false) == ''
      and not blocked(other, wants(other)) then
      return true
    end
  end
  return false
end

-- The best parked node of the class in this run that only waited for room; nil when there is none.
local function candidate(class)
  if redis.call('HGET', RUN, 'state') ~= 'open' then return nil end
  for _, node in ipairs(redis.call('ZRANGE', part('waiting'), 0, -1)) do
    local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'role_limit', 'attempt')
    if n[1] .. '|' .. queue_of(n[2], n[1]) == class then
      if full(n[1], n[3]) ~= '' then return nil end
      if held_back(node, n[1]) == '' and not blocked(node, wants(node)) then
        if goes_after(node) then return nil end
        local why = outranked(node)
        if why == '' then why = barred() end
        if why == '' then return node, n[4] end
        redis.call('HSET', nkey(node), 'reason', why)
        return nil
      end
    end
  end
  return nil
end

-- The run that is first among those that wait for this class, without those in `passed`; and its rank.
local function first_of(class, passed)
  local from_to = 0
  for _ in pairs(passed) do from_to = from_to + 1 end
  local found = redis.call('ZRANGE', 'af:waiting:' .. class, 0, from_to, 'WITHSCORES')
  for i = 1, #found, 2 do
    if not passed[found[i]] then return found[i], tonumber(found[i + 1]) end
  end
  return nil
end

-- Wake what waits for room, in any run, fairest first, until there is none.
local function wake_fair()
  local home, passed = RUN_ID, {}
  for _, class in ipairs(redis.call('HKEYS', 'af:waiting')) do passed[class] = {} end
  while true do
    local class, run, best = nil, nil, math.huge
    for name, gone in pairs(passed) do
      local first, at = first_of(name, gone)
      if not first then passed[name] = nil
      elseif at < best then class, run, best = name, first, at end
    end
    if not class then break end
    turn_to(run)
    local role, queue = string.match(class, '^([^|]*)|(.*)$')
    if no_room(role, queue, false) ~= '' then
      -- Nor for those behind it: they have at least as many nodes in flight.
      passed[class] = nil
    else
      local node, attempt = candidate(class)
      if node then
        unawait(node, role, queue)
        wake_node(node, role, queue, attempt)
        -- What left the way to a more important one may go now.
        for _, gone in pairs(passed) do gone[run] = nil end
      else
        passed[class][run] = true
      end
    end
  end
  turn_to(home)
end

local function wake()
  local contended = redis.call('EXISTS', 'af:waiting') == 1
  if redis.call('EXISTS', part('parked')) == 1 then wake_own(contended) end
  if contended then wake_fair() end
end

-- Park a node with its reason; it holds nothing. `wide`: it waits for room in the fleet, or for another run.
local function park(node, reason, wide)
  local n = redis.call('HMGET', nkey(node), 'order', 'locks', 'attempt', 'role', 'queue')
  redis.call('HSET', nkey(node), 'state', 'parked', 'reason', reason, 'woken', 0)
  redis.call('ZREM', part('ready'), node)
  redis.call('ZADD', part('parked'), n[1] or 0, node)
  if n[2] and n[2] ~= '[]' then
    redis.call('ZADD', part('lockwait'), 'NX', redis.call('HINCRBY', RUN, 'arrivals', 1), node)
  end
  if wide then await(node, n[4], queue_of(n[5], n[4])) end
  emit('node.parked', node, 'parked', n[3], reason)
end

-- Leave the running state: lease, room and locks are given back.
local function leave(node, fence)
  redis.call('ZREM', 'af:leases', RUN_ID .. '|' .. node .. '|' .. fence)
  local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'started_ms')
  enter(n[1], queue_of(n[2], n[1]), -1)
  release(part('locks'), node, wants(node))
  redis.call('HINCRBY', nkey(node), 'busy_ms', math.max(0, NOW - tonumber(n[3] or NOW)))
end

-- Give back what a node that is not running may hold: its place in the queues and a woken node's room.
local function forget(node)
  local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'woken', 'wide', 'state')
  local role, queue = n[1], queue_of(n[2], n[1])
  if n[3] == '1' then
    enter(role, queue, -1)
    redis.call('HSET', nkey(node), 'woken', 0)
  elseif n[5] == 'ready' then
    hunger(queue, -1)
  end
  if n[4] == '1' then unawait(node, role, queue) end
  redis.call('ZREM', part('ready'), node)
  redis.call('ZREM', part('parked'), node)
  redis.call('ZREM', part('lockwait'), node)
  redis.call('ZREM', 'af:delayed', RUN_ID .. '|' .. node)
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
          offer(child)
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
      offer(left[1])
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
  head[#head + 1] = table.concat(others, '\n')
  return head
end
