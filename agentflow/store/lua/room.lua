-- Room in the fleet, shared by every script (loaded after locks.lua).
-- `af:flight` counts the nodes in flight (running, or woken and holding their room) of all runs: `fleet`,
-- `role:<role>`, `queue:<queue>`. `af:limits` holds what an operator allows, `af:capacity` the slots of the
-- registered workers by queue (kept by the leader; a slot counts for each queue that its worker consumes).
-- `af:hungry:<queue>` holds, by run, the nodes that are ready and whose message is under way.
-- A class is `role|queue`: nodes of one class find room, or none, together. What is parked for want of
-- room stands in the run's `waiting` (the rest in `parked`) and is counted by class in `af:waiting` (all
-- runs) and `waits` (this run); `af:waiting:<class>` has the runs in the order in which they are woken.

local function tally(field, n)
  if redis.call('HINCRBY', 'af:flight', field, n) <= 0 then redis.call('HDEL', 'af:flight', field) end
end

-- The run's place among those that wait: fewest in flight first, then longest without a slot.
local function rank()
  local r = redis.call('HMGET', RUN, 'in_flight', 'turn')
  return tonumber(r[1] or 0) * 2 ^ 40 + tonumber(r[2] or 0)
end

-- Whether anything waits for room, in any run; asked once, while it does not change.
local someone_waits = nil
local function is_contended()
  if someone_waits == nil then someone_waits = redis.call('EXISTS', 'af:waiting') == 1 end
  return someone_waits
end

-- Nodes of a complexity in flight in all runs, where the fleet has a limit for it; asked while it does not change.
local class_used = {}
-- One of a class that the fleet has a limit for has left: others may go.
local class_freed = false

-- Count `n` nodes in or out of flight; one that has a complexity counts in its class too.
local function enter(role, queue, n, complexity)
  redis.call('HINCRBY', RUN, 'in_flight', n)
  if complexity and complexity ~= '' then
    redis.call('HINCRBY', part('classes'), complexity, n)
    class_used[complexity] = nil
    class_freed = class_freed or n < 0 and tonumber(redis.call('HGET', 'af:limits', 'class:' .. complexity) or 0) > 0
  end
  redis.call('HINCRBY', part('roles'), role, n)
  tally('fleet', n)
  tally('role:' .. role, n)
  tally('queue:' .. queue, n)
  if n > 0 then redis.call('HSET', RUN, 'turn', redis.call('INCR', 'af:turn')) end
  for _, class in ipairs(is_contended() and redis.call('HKEYS', part('waits')) or {}) do
    redis.call('ZADD', 'af:waiting:' .. class, 'XX', rank(), RUN_ID)
  end
end

local function hunger(queue, n)
  local key = 'af:hungry:' .. queue
  if redis.call('HINCRBY', key, RUN_ID, n) <= 0 then redis.call('HDEL', key, RUN_ID) end
end

-- A parked node that waits for room (again): it is woken whenever there is, in any run's turn.
local function await(node, role, queue)
  local class = role .. '|' .. queue
  someone_waits = true
  redis.call('HSET', nkey(node), 'wide', 1)
  redis.call('ZREM', part('parked'), node)
  redis.call('ZADD', part('waiting'), redis.call('HGET', nkey(node), 'order') or 0, node)
  redis.call('HINCRBY', part('waits'), class, 1)
  redis.call('HINCRBY', 'af:waiting', class, 1)
  redis.call('ZADD', 'af:waiting:' .. class, rank(), RUN_ID)
end

local function unawait(node, role, queue)
  local class = role .. '|' .. queue
  someone_waits = nil
  redis.call('HSET', nkey(node), 'wide', 0)
  redis.call('ZREM', part('waiting'), node)
  if redis.call('HINCRBY', part('waits'), class, -1) <= 0 then
    redis.call('HDEL', part('waits'), class)
    redis.call('ZREM', 'af:waiting:' .. class, RUN_ID)
  end
  if redis.call('HINCRBY', 'af:waiting', class, -1) <= 0 then redis.call('HDEL', 'af:waiting', class) end
end

-- Runs of which something was put aside: it waited for room and is held back by more than that. It is parked for that
-- reason from now on; whoever lifts it looks there.
local set_aside = {}
local function put_aside(node, role, queue, why)
  unawait(node, role, queue)
  redis.call('ZADD', part('parked'), redis.call('HGET', nkey(node), 'order') or 0, node)
  redis.call('HSET', nkey(node), 'reason', why, 'behind', '')
  set_aside[RUN_ID] = 'now'
end

-- Whether runs with fewer nodes in flight have ready nodes enough for the `free` slots; the first such run.
-- Their messages lie in the same queue, so whoever is refused a slot here leaves it to one of them.
local function poorer(queue, free)
  local key = 'af:hungry:' .. queue
  local mine = tonumber(redis.call('HGET', RUN, 'in_flight') or 0)
  if mine == 0 or redis.call('HLEN', key) - redis.call('HEXISTS', key, RUN_ID) == 0 then return false end
  local all, need, first = redis.call('HGETALL', key), 0, false
  for i = 1, #all, 2 do
    if all[i] ~= RUN_ID then
      local r = redis.call('HMGET', 'af:run:' .. all[i], 'in_flight', 'max_concurrent', 'state')
      local theirs, most, wish = tonumber(r[1] or 0), tonumber(r[2] or 0), tonumber(all[i + 1])
      if most > 0 then wish = math.min(wish, most - theirs) end
      if theirs < mine and r[3] == 'open' and wish > 0 then
        need, first = need + wish, first or all[i]
        if need >= free then return first end
      end
    end
  end
  return false
end

-- Why the fleet has no room for one more node of this role and queue, '' when it has.
-- Without a limit the slots of the workers are one: what is woken holds its slot, so a claim above them
-- waits for its turn. `claimed`: a worker asks, so the queue has one, whatever the last count says.
local function no_room(role, queue, claimed)
  local limit = redis.call('HMGET', 'af:limits', 'fleet', 'role:' .. role)
  local used = redis.call('HMGET', 'af:flight', 'fleet', 'role:' .. role, 'queue:' .. queue)
  local fleet, of_role = tonumber(limit[1] or 0), tonumber(limit[2] or 0)
  local free = math.huge
  if fleet > 0 then
    free = fleet - tonumber(used[1] or 0)
    if free <= 0 then return 'fleet limit: ' .. fleet .. ' slots of the fleet are taken' end
  end
  if of_role > 0 and tonumber(used[2] or 0) >= of_role then
    return 'role limit: ' .. of_role .. ' slots for ' .. role .. ' in the fleet are taken'
  end
  local slots = tonumber(redis.call('HGET', 'af:capacity', queue) or 0)
  if slots > 0 then
    free = math.min(free, slots - tonumber(used[3] or 0))
    if free <= 0 then return 'fleet: all ' .. slots .. ' slots for the queue ' .. queue .. ' are taken' end
  elseif not claimed and redis.call('EXISTS', 'af:capacity') == 1 then
    return 'fleet: no worker consumes the queue ' .. queue
  end
  local other = free < math.huge and poorer(queue, free)
  return other and 'fair share: run ' .. other .. ' has fewer nodes at work and is next' or ''
end
