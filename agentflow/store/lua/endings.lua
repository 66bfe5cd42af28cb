-- How nodes end or stand still, shared by every script (loaded after nodes.lua).

-- Park a node with its reason; it holds nothing. `wide`: it waits for room in the fleet, or for another run.
-- `aside`: for something that may last, so it leaves the line for its locks.
local function park(node, reason, wide, aside)
  local n = redis.call('HMGET', nkey(node), 'order', 'locks', 'attempt', 'role', 'queue')
  redis.call('HSET', nkey(node), 'state', 'parked', 'reason', reason, 'woken', 0)
  redis.call('ZREM', part('ready'), node)
  redis.call('ZADD', part('parked'), n[1] or 0, node)
  if n[2] and n[2] ~= '[]' then
    if aside then step_out(node) else line_up(node) end
  end
  if aside then redis.call('HSET', nkey(node), 'behind', '') end
  if wide then await(node, n[4], queue_of(n[5], n[4])) end
  emit('node.parked', node, 'parked', n[3], reason)
end

-- Leave the running state: lease, room, locks and what is reserved of budgets are given back.
local function leave(node, fence)
  redis.call('ZREM', 'af:leases', RUN_ID .. '|' .. node .. '|' .. fence)
  local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'started_ms', 'complexity', 'holds', 'locks', 'vain')
  enter(n[1], queue_of(n[2], n[1]), -1, n[4])
  if n[5] then free_holds(node, fence, n[5]) end
  if n[7] then end_apart(node, fence, n[7]) end
  if n[6] and n[6] ~= '[]' then release(part('locks'), node, wants(node)) end
  redis.call('HINCRBY', nkey(node), 'busy_ms', math.max(0, NOW - tonumber(n[3] or NOW)))
end

-- Give back what a node that is not running may hold: its place in the queues and a woken node's room.
local function forget(node)
  local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'woken', 'wide', 'state', 'complexity')
  local role, queue = n[1], queue_of(n[2], n[1])
  if n[3] == '1' then
    enter(role, queue, -1, n[6])
    redis.call('HSET', nkey(node), 'woken', 0)
  elseif n[5] == 'ready' then
    hunger(queue, -1)
  end
  if n[4] == '1' then unawait(node, role, queue) end
  redis.call('ZREM', part('ready'), node)
  redis.call('ZREM', part('parked'), node)
  step_out(node)
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
    urgent[RUN_ID] = nil
    step_out(node)
    redis.call('HINCRBY', RUN, 'nodes_left', -1)
    ended[#ended + 1] = node
    emit('node.settled', node, state, n[3], reason, n[4])
    local follow = state == 'cancelled' and 'cancelled' or 'skipped'
    local harmless = state == 'succeeded' or n[2] == '1'
    for _, child in ipairs(cjson.decode(n[1] or '[]')) do
      local left = redis.call('HINCRBY', nkey(child), 'parents_left', -1)
      local c = redis.call('HMGET', nkey(child), 'state', 'tolerant', 'queue', 'role')
      if c[1] == 'pending' and c[2] ~= '1' then
        if not harmless then
          -- Marked at once: another parent may end in this same cascade.
          redis.call('HSET', nkey(child), 'state', follow)
          queue[#queue + 1] = {child, follow, node .. ' ' .. state}
        elseif left == 0 then
          offer(child, queue_of(c[3], c[4]))
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

-- A node fails for good: what needed it is skipped, and under `on_failure: stop` all that waits is cancelled.
local function fail(node, reason)
  local optional = redis.call('HGET', nkey(node), 'optional') == '1'
  finish(node, 'failed', reason)
  if not optional and redis.call('HGET', RUN, 'on_failure') == 'stop' then
    redis.call('HSET', RUN, 'stopped', 1)
    cancel_waiting('stopped: ' .. node .. ' failed')
  end
end

-- Where a budget is spent and nothing of a run can go on any more, the run is paused until the budget is raised.
-- What only waits for calls under way in other runs of the project's day is woken when those are charged.
local OTHERS_LIFT = {['class:'] = true, ['provider:'] = true, ['breaker:'] = true, ['paused:'] = true}
local function spent_reason()
  local found = nil
  for _, node in ipairs(redis.call('SMEMBERS', part('open'))) do
    local n = redis.call('HMGET', nkey(node), 'state', 'reason')
    if n[1] == 'parked' then
      local kind = string.match(n[2] or '', '^%a+:')
      if OTHERS_LIFT[kind] then return nil end
      if kind == 'budget:' then found = n[2] end
    elseif n[1] ~= 'pending' then
      return nil
    end
  end
  return found
end

local function is_still()
  return redis.call('HGET', RUN, 'state') == 'open' and tonumber(redis.call('HGET', RUN, 'in_flight') or 0) <= 0
    and redis.call('EXISTS', part('ready'), part('waiting')) == 0
end

local function rest()
  local home, done, more = RUN_ID, {}, true
  while more do
    more = false
    for run in pairs(starved) do
      if not done[run] then
        done[run], more = true, true
        turn_to(run)
        break
      end
    end
    if more and is_still() then
      starved[RUN_ID] = nil
      wake()   -- what was left behind more important work may go now
      local reason = starved[RUN_ID] == 'spent' and is_still() and spent_reason()
      if reason then pause_run(reason) end
    end
  end
  turn_to(home)
end

-- Lists travel as lines: cjson cannot tell an empty list from an empty object.
local function answer(head)
  if next(starved) then rest() end
  head[#head + 1] = table.concat(ready, '\n')
  head[#head + 1] = table.concat(woken, '\n')
  head[#head + 1] = table.concat(ended, '\n')
  head[#head + 1] = table.concat(others, '\n')
  return head
end
