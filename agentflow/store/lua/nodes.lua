-- Making ready and waking, shared by every script (loaded after admission.lua).
local function make_ready(node, ...)
  redis.call('HSET', nkey(node), 'state', 'ready', 'ready_ms', NOW, 'reason', '', ...)
  redis.call('ZADD', part('ready'), NOW, node)
end

-- Ready, and its message is (or must be) on its way. Its time in the queue counts from here, wakes included.
local function offer(node, queue)
  make_ready(node, 'queued_ms', NOW)
  if not queue then
    local n = redis.call('HMGET', nkey(node), 'queue', 'role')
    queue = queue_of(n[1], n[2])
  end
  hunger(queue, 1)
end

-- A woken node keeps its place among the lock waiters and holds its room (`woken` = 1) until it is
-- claimed, so nobody can slip in between.
local function wake_node(node, role, queue, attempt)
  redis.call('ZREM', part('parked'), node)
  make_ready(node)
  redis.call('HSET', nkey(node), 'woken', 1)
  enter(role, queue, 1, redis.call('HGET', nkey(node), 'complexity'))
  emit('node.woken', node, 'ready', attempt)
  if RUN_ID == ARGV[1] then woken[#woken + 1] = node else others[#others + 1] = RUN_ID .. '|' .. node end
end

-- Look at this run's parked nodes, best first: what nothing in the run holds back is woken, or, where the
-- fleet has no room or other runs wait for it too, put among those that wait for room. True when one that is
-- held back has left the line for its locks.
local function look_through(contended)
  if redis.call('HGET', RUN, 'state') ~= 'open' then return end
  local put, taken, aside, keeps = 0, {}, false, keeper()
  local all = redis.call('ZRANGE', part('parked'), 0, -1, 'WITHSCORES')
  for i = 1, #all, 2 do
    local node = all[i]
    while not contended and seat_before(tonumber(all[i + 1])) do end
    local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'role_limit', 'attempt', 'locks', 'behind')
    local why = full(n[1], n[3], put)
    if string.sub(why, 1, 3) == 'run' then return end
    if why == '' and keeps(node, n[6]) then why = 'lock' end
    if why == '' then
      why = held_back(node, n[1])
      if why ~= '' then
        redis.call('HSET', nkey(node), 'reason', why, 'behind', '')
        -- It may stand still for long: others need not wait for its turn at its locks.
        aside = step_out(node) or aside
      end
    end
    local mine = why == '' and not taken[n[5]] and wants(node)
    local other, path = blocked(node, mine or {}, true)
    if other then
      stand_behind(node, other, path)
      line_up(node)
    elseif mine then
      -- It stays first in the line for its locks: whoever wants the same need not ask any more.
      if #mine > 0 and clash_any(mine, mine) then taken[n[5]] = true end
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
  return aside
end

local function wake_own(contended)
  -- Once more when one has left the line: it stood in others' way.
  while look_through(contended) do end
end

-- The best parked node of the class in this run that only waited for room; nil when there is none. When a
-- better one has just become ready that one is given the room: 'seated'.
local function candidate(class)
  if redis.call('HGET', RUN, 'state') ~= 'open' then return nil end
  for _, node in ipairs(redis.call('ZRANGE', part('waiting'), 0, -1)) do
    local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'role_limit', 'attempt', 'order')
    local queue = queue_of(n[2], n[1])
    if n[1] .. '|' .. queue == class then
      if seat_before(tonumber(n[5] or 0), class) then return 'seated' end
      if full(n[1], n[3]) ~= '' then return nil end
      local why = held_back(node, n[1])
      if why ~= '' then
        put_aside(node, n[1], queue, why)
      elseif not blocked(node, wants(node)) then
        if goes_after(node) then return nil end
        why = outranked(node)
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
      if node == 'seated' then
        -- Look again: it has the room now, or there is more.
      elseif node then
        unawait(node, role, queue)
        wake_node(node, role, queue, attempt)
      end
      -- What left the way to a more important one may go now.
      for _, gone in pairs((node or set_aside[run] == 'now') and passed or {}) do gone[run] = nil end
      if set_aside[run] then set_aside[run] = 'seen' end
      if not node then passed[class][run] = true end
    end
  end
  local again = next(set_aside) ~= nil
  for run_aside in pairs(set_aside) do
    -- It leaves the line for its locks, where others may stand behind it.
    set_aside[run_aside] = nil
    turn_to(run_aside)
    wake_own(true)
  end
  turn_to(home)
  if again then wake_fair() end
end

-- Some of a day's budget is free again: other runs may go on that it held back (of any project when all have one).
local function wake_short()
  local home, project = RUN_ID, redis.call('HGET', RUN, 'project')
  day_freed = false
  local everybody = redis.call('EXISTS', 'af:short') == 1 and redis.call('EXISTS', 'af:org:budget') == 1
  for _, run in ipairs(redis.call('ZRANGE', 'af:short', 0, -1)) do
    turn_to(run)
    local r = redis.call('HMGET', RUN, 'project', 'state')
    -- One that is paused stays noted: the next day lets it go on (morning.lua).
    if run ~= home and (everybody or r[1] == project) and r[2] == 'open' then
      redis.call('ZREM', 'af:short', run)
      wake_own(is_contended())
    end
  end
  turn_to(home)
end

-- Other runs with this guard may go on: a node that had to run alone has ended ('s'), or one of a class that the
-- fleet limits has left ('c').
local function wake_guarded(what)
  local home = RUN_ID
  for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
    turn_to(run)
    if run ~= home and guarded(what) and redis.call('EXISTS', part('parked')) == 1 then wake_own(true) end
  end
  turn_to(home)
end

local function wake()
  local contended = is_contended()
  if redis.call('EXISTS', part('parked')) == 1 then wake_own(contended) end
  local alone, class, was_freed = suspect_ended, class_freed, day_freed
  suspect_ended, class_freed = false, false
  if alone then wake_guarded('s') end
  if class then wake_guarded('c') end
  if day_freed then wake_short() end
  if alone or class or was_freed then contended = is_contended() end
  if contended then wake_fair() end
end

