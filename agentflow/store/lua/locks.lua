-- Locks on paths, shared by every script (loaded after lib.lua).
-- A table of locks is a hash (`where`) with `w:<path>` -> holder and `i:<path>` -> number of holders below
-- that path. The path '' is the whole tree. Cost is the depth of the path. A run has a table for its nodes,
-- a project one for its exclusive runs.
local function ancestors(path)
  local out = {}
  local at = path
  while at ~= '' do
    at = string.match(at, '^(.*)/[^/]*$') or ''
    out[#out + 1] = at
  end
  return out
end

local function lock_conflict(where, who, path)
  local holder = redis.call('HGET', where, 'w:' .. path)
  if holder and holder ~= who then return holder end
  for _, up in ipairs(ancestors(path)) do
    holder = redis.call('HGET', where, 'w:' .. up)
    if holder and holder ~= who then return holder end
  end
  local below = redis.call('HGET', where, 'i:' .. path)
  if below and tonumber(below) > 0 then
    local prefix = path == '' and 'w:' or 'w:' .. path .. '/'
    local all = redis.call('HGETALL', where)
    for i = 1, #all, 2 do
      if string.sub(all[i], 1, #prefix) == prefix and all[i + 1] ~= who then return all[i + 1] end
    end
  end
  return false
end

local function overlap(a, b)
  return a == b or a == '' or b == '' or string.sub(a, 1, #b + 1) == b .. '/'
    or string.sub(b, 1, #a + 1) == a .. '/'
end

local function overlap_any(these, those)
  for _, one in ipairs(these) do
    for _, other in ipairs(those) do
      if overlap(one, other) then return other end
    end
  end
  return false
end

local function acquire(where, who, paths)
  for _, path in ipairs(paths) do
    redis.call('HSET', where, 'w:' .. path, who)
    for _, up in ipairs(ancestors(path)) do redis.call('HINCRBY', where, 'i:' .. up, 1) end
  end
end

local function release(where, who, paths)
  for _, path in ipairs(paths) do
    if redis.call('HGET', where, 'w:' .. path) == who then
      redis.call('HDEL', where, 'w:' .. path)
      for _, up in ipairs(ancestors(path)) do
        if redis.call('HINCRBY', where, 'i:' .. up, -1) <= 0 then redis.call('HDEL', where, 'i:' .. up) end
      end
    end
  end
end

local function wants(node)
  local raw = redis.call('HGET', nkey(node), 'locks')
  if not raw or raw == '' or raw == '[]' then return {} end
  return cjson.decode(raw)
end

-- The holder or earlier waiter that keeps `node` from its locks, and the path; nil when it may have them.
local function blocked(node, mine)
  for _, path in ipairs(mine) do
    local holder = lock_conflict(part('locks'), node, path)
    if holder then return holder, path end
  end
  if #mine == 0 then return nil end
  local arrival = redis.call('ZSCORE', part('lockwait'), node)
  local last, at, size = arrival and '(' .. arrival or '+inf', 0, 20
  while true do
    -- In pieces: most often one of the first is in the way, and there may be a thousand.
    local some = redis.call('ZRANGEBYSCORE', part('lockwait'), '-inf', last, 'LIMIT', at, size)
    for _, other in ipairs(some) do
      if other ~= node then
        local path = overlap_any(wants(other), mine)
        if path then return other, path end
      end
    end
    if #some < size then return nil end
    at, size = at + size, 200
  end
end

-- The table of the run's project: which exclusive run holds what, and the order in which they came.
local function project_key(name)
  return 'af:project:' .. (redis.call('HGET', RUN, 'project') or '') .. ':' .. name
end

-- Why an exclusive run may not begin, '' when it may: then it holds all of its artifacts from here on.
-- All or nothing and in order of arrival: a run that holds one part never waits for another, and an earlier
-- one that waits is passed only where the two do not touch.
local function barred()
  local r = redis.call('HMGET', RUN, 'exclusive', 'holds')
  if not r[1] or r[1] == '' or r[2] == '1' then return '' end
  local mine, where, line = cjson.decode(r[1]), project_key('locks'), project_key('wait')
  for _, path in ipairs(mine) do
    local holder = lock_conflict(where, RUN_ID, path)
    if holder then return 'exclusive: ' .. (path == '' and '**' or path) .. ' is held by run ' .. holder end
  end
  for _, other in ipairs(redis.call('ZRANGE', line, 0, -1)) do
    if other == RUN_ID then break end
    local o = redis.call('HMGET', 'af:run:' .. other, 'exclusive', 'state')
    local path = o[2] == 'open' and overlap_any(cjson.decode(o[1] or '[]'), mine)
    if path then return 'exclusive: ' .. (path == '' and '**' or path) .. ' is next for run ' .. other end
  end
  acquire(where, RUN_ID, mine)
  redis.call('ZREM', line, RUN_ID)
  redis.call('HSET', RUN, 'holds', 1)
  return ''
end

-- Give back what an exclusive run holds, or its place in the line.
local function unbar()
  local r = redis.call('HMGET', RUN, 'exclusive', 'holds')
  if not r[1] or r[1] == '' then return end
  if r[2] == '1' then release(project_key('locks'), RUN_ID, cjson.decode(r[1])) end
  redis.call('HSET', RUN, 'holds', 0)
  redis.call('ZREM', project_key('wait'), RUN_ID)
  redis.call('ZREM', 'af:holding', RUN_ID)
end
