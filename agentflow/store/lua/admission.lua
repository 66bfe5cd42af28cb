-- What a node must have besides its locks before it starts, shared by every script (loaded after budget.lua).

-- What holds a node back besides its locks and its room: a pause, a budget, its class, isolation; '' or the reason.
local function held_back(node, role)
  local why = paused(role, node)
  if why == '' then why = over_budget(node, role) end
  if why == '' then why = class_full(node) end
  if why == '' then why = kept_apart(node) end
  return why
end

-- Room in the run itself for one more node of this role; '' or the reason why not.
local function full(role, limit, more)
  local r = redis.call('HMGET', RUN, 'max_concurrent', 'in_flight')
  local most = tonumber(r[1] or 0)
  if most > 0 and tonumber(r[2] or 0) + (more or 0) >= most then
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

-- Nodes of the calling run that have become ready just now, best first. Their messages are under way.
local fresh = nil
local function find_fresh()
  fresh = {}
  for _, node in ipairs(ready) do
    local n = redis.call('HMGET', nkey(node), 'order', 'role', 'queue', 'role_limit', 'state', 'tolerant', 'woken',
      'complexity')
    if n[5] == 'ready' and n[6] ~= '1' and n[7] ~= '1' then
      fresh[#fresh + 1] = {node = node, order = tonumber(n[1] or 0), role = n[2], queue = queue_of(n[3], n[2]), limit = n[4],
        complexity = n[8]}
    end
  end
  table.sort(fresh, function(a, b) return a.order < b.order end)
end

-- Give the room that there is to the best of them, when it goes before a parked node of this order (and is of this
-- class, if one is named): else what has waited longer would take the slot in the moment before its message
-- arrives, however short the way to the end is from there. True when one was given room; it holds it like a woken one.
local function seat_before(order, class)
  if RUN_ID ~= ARGV[1] or #ready == 0 then return false end
  if not fresh then find_fresh() end
  for i, f in ipairs(fresh) do
    if f.order >= order then return false end
    if (not class or f.role .. '|' .. f.queue == class) and full(f.role, f.limit) == '' and held_back(f.node, f.role) == ''
      and not blocked(f.node, wants(f.node)) and no_room(f.role, f.queue, false) == '' and outranked(f.node) == ''
      and barred() == '' then
      table.remove(fresh, i)
      hunger(f.queue, -1)
      redis.call('HSET', nkey(f.node), 'woken', 1)
      enter(f.role, f.queue, 1, f.complexity)
      return true
    end
  end
  return false
end
