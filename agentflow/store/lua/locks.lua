-- Locks of a run, shared by every script (loaded after lib.lua).
-- Locks: a hash with `w:<path>` -> holder and `i:<path>` -> number of holders below that path.
-- The path '' is the whole tree. Cost is the depth of the path.
local function ancestors(path)
  local out = {}
  local at = path
  while at ~= '' do
    at = string.match(at, '^(.*)/[^/]*$') or ''
    out[#out + 1] = at
  end
  return out
end

local function lock_conflict(node, path)
  local holder = redis.call('HGET', part('locks'), 'w:' .. path)
  if holder and holder ~= node then return holder end
  for _, up in ipairs(ancestors(path)) do
    holder = redis.call('HGET', part('locks'), 'w:' .. up)
    if holder and holder ~= node then return holder end
  end
  local below = redis.call('HGET', part('locks'), 'i:' .. path)
  if below and tonumber(below) > 0 then return '?' end
  return false
end

local function holder_below(path)
  local prefix = path == '' and 'w:' or 'w:' .. path .. '/'
  local all = redis.call('HGETALL', part('locks'))
  for i = 1, #all, 2 do
    if string.sub(all[i], 1, #prefix) == prefix then return all[i + 1] end
  end
  return '?'
end

local function overlap(a, b)
  return a == b or a == '' or b == '' or string.sub(a, 1, #b + 1) == b .. '/'
    or string.sub(b, 1, #a + 1) == a .. '/'
end

local function wants(node)
  local raw = redis.call('HGET', nkey(node), 'locks')
  if not raw or raw == '' or raw == '[]' then return {} end
  return cjson.decode(raw)
end

-- The holder or earlier waiter that keeps `node` from its locks, and the path; nil when it may have them.
local function blocked(node, mine)
  for _, path in ipairs(mine) do
    local holder = lock_conflict(node, path)
    if holder then
      if holder == '?' then holder = holder_below(path) end
      return holder, path
    end
  end
  local arrival = redis.call('ZSCORE', part('lockwait'), node) or '+inf'
  local earlier = redis.call('ZRANGEBYSCORE', part('lockwait'), '-inf', arrival == '+inf' and arrival or '(' .. arrival)
  for _, other in ipairs(earlier) do
    if other ~= node then
      for _, theirs in ipairs(wants(other)) do
        for _, path in ipairs(mine) do
          if overlap(theirs, path) then return other, path end
        end
      end
    end
  end
  return nil
end

local function acquire(node, mine)
  for _, path in ipairs(mine) do
    redis.call('HSET', part('locks'), 'w:' .. path, node)
    for _, up in ipairs(ancestors(path)) do redis.call('HINCRBY', part('locks'), 'i:' .. up, 1) end
  end
end

local function release(node, mine)
  for _, path in ipairs(mine) do
    if redis.call('HGET', part('locks'), 'w:' .. path) == node then
      redis.call('HDEL', part('locks'), 'w:' .. path)
      for _, up in ipairs(ancestors(path)) do
        if redis.call('HINCRBY', part('locks'), 'i:' .. up, -1) <= 0 then
          redis.call('HDEL', part('locks'), 'i:' .. up)
        end
      end
    end
  end
end

