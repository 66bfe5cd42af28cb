-- The line of those that wait for locks, shared by every script (loaded after locks.lua).
-- `lockwait` has a run's waiting nodes in the order of their arrival, `wanted` is a table of locks (locks.lua) of
-- what they want. All or nothing: who waits holds nothing. A later node passes an earlier one only where their
-- locks do not clash, so a stream of readers does not keep a writer waiting.

local function wants(node)
  local raw = redis.call('HGET', nkey(node), 'locks')
  if not raw or raw == '' or raw == '[]' then return {} end
  return cjson.decode(raw)
end

local function line_up(node)
  local mine = wants(node)
  if #mine == 0 then return end
  if redis.call('ZADD', part('lockwait'), 'NX', redis.call('HINCRBY', RUN, 'arrivals', 1), node) == 1 then
    acquire(part('wanted'), node, mine)
  end
end

-- Whether it stood in the line, which it has left now.
local function step_out(node)
  if redis.call('ZREM', part('lockwait'), node) == 0 then return false end
  release(part('wanted'), node, wants(node))
  return true
end

-- The first that waits (before `arrival`; nil: all), for whom `counts` holds, and wants what clashes with `mine`.
local function first_waiter(node, mine, arrival, counts)
  local last, at, size = arrival and '(' .. arrival or '+inf', 0, 20
  while true do
    -- In pieces: most often one of the first is in the way, and there may be a thousand.
    local some = redis.call('ZRANGEBYSCORE', part('lockwait'), '-inf', last, 'LIMIT', at, size)
    for _, other in ipairs(some) do
      local theirs = other ~= node and wants(other) or {}
      local path = clash_any(theirs, mine)
      if path and counts(theirs) then return other, path end
    end
    if #some < size then return nil end
    at, size = at + size, 200
  end
end

local function anyone() return true end

-- Note who keeps the node from its locks; the reason that it waits for.
local function stand_behind(node, other, path)
  local reason = 'lock: ' .. shown(path) .. ' is held for ' .. other
  redis.call('HSET', nkey(node), 'behind', other, 'reason', reason)
  return reason
end

-- Tells whether `other`, who kept `node` from its locks when they were last asked for, still does: it runs, or is ahead
-- in the line. Locks of a node never become fewer while it has any, so nothing else needs to be looked at.
local function keeper()
  local line, running = nil, {}
  return function(node, other)
    if not other or other == '' then return false end
    if running[other] == nil then running[other] = redis.call('HGET', nkey(other), 'state') == 'running' end
    if running[other] then return true end
    if not line then
      line = {}
      local all = redis.call('ZRANGE', part('lockwait'), 0, -1)
      for place, name in ipairs(all) do line[name] = place end
    end
    return line[other] ~= nil and line[node] ~= nil and line[other] < line[node]
  end
end

-- The holder or earlier waiter that keeps `node` from its locks, and the path; nil when it may have them.
local function blocked(node, mine, named)
  if #mine == 0 then return nil end
  local holder, path = conflict(part('locks'), node, mine, nil, named)
  if holder then return holder, path end
  local arrival = redis.call('ZSCORE', part('lockwait'), node)
  -- Only where somebody waits for what clashes it matters who came first.
  if not conflict(part('wanted'), node, mine, arrival and mine or nil) then return nil end
  return first_waiter(node, mine, arrival, anyone)
end

-- Further locks of a node, for this attempt and those that follow; those that its own suffice for are left out.
local function widen(node, asked)
  local mine, more = wants(node), {}
  for _, lock in ipairs(asked) do
    local had = false
    for _, one in ipairs(mine) do had = had or suffices(one, lock) end
    if not had then
      more[#more + 1] = lock
      mine[#mine + 1] = lock
    end
  end
  return mine, more
end

-- Once two nodes may append to a path, what they appended merges for good (workspace/appending.py).
local function note_appends(locks)
  local known = cjson.decode(redis.call('HGET', RUN, 'appends') or '[]')
  local count = #known
  for _, lock in ipairs(locks) do
    if mode_of(lock) == 'a' then known[#known + 1] = path_of(lock) end
  end
  if #known > count then redis.call('HSET', RUN, 'appends', cjson.encode(known)) end
end

-- Note what `widen` found: all that the node locks from now on, and what of it is further.
local function note_wider(node, mine, more)
  if #more == 0 then return end
  local had = cjson.decode(redis.call('HGET', nkey(node), 'extension') or '[]')
  for _, lock in ipairs(more) do had[#had + 1] = lock end
  redis.call('HSET', nkey(node), 'locks', cjson.encode(mine), 'extension', cjson.encode(had))
  note_appends(more)
end
