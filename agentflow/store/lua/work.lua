-- Settled work, shared by every script (loaded after exclusive.lua).
-- `settled` has the nodes with a commit in the order of their settlement, `writers` the last of them for each
-- path (| between those of which none holds the others' work: they appended at the same time, or declared
-- nothing): a node that locks a path later, in whatever mode, starts from theirs.

-- The last settled writers of what these locks cover, each once.
local function writers_of(locks)
  local out, seen = {}, {}
  local all = #locks > 0 and redis.call('HGETALL', part('writers')) or {}
  for i = 1, #all, 2 do
    for _, lock in ipairs(locks) do
      if overlap(all[i], path_of(lock)) then
        for name in string.gmatch(all[i + 1], '[^|]+') do
          if not seen[name] then out[#out + 1] = name end
          seen[name] = true
        end
        break
      end
    end
  end
  return out
end

-- What a node wrote, as paths: what it locked to write or append, and what lies outside of that.
local function written_by(node, paths)
  local out, top = {}, {}
  for _, lock in ipairs(wants(node)) do
    if mode_of(lock) ~= 'r' then out[#out + 1] = path_of(lock) end
  end
  for i, path in ipairs(out) do top[i] = path end
  for _, path in ipairs(paths) do
    local inside = false
    for _, lock in ipairs(top) do inside = inside or path == lock or is_below(path, lock) end
    if not inside then out[#out + 1] = path end
  end
  return out, #top
end

-- Note that the node's commit is settled; `paths` are what it wrote (those that it locked count for it).
local function wrote(node, paths)
  redis.call('ZADD', part('settled'), redis.call('HINCRBY', RUN, 'seq', 1), node)
  local written, locked = written_by(node, paths)
  if #written == 0 then return end
  -- It started from the work of its parents and of those that it has an edge to: it stands for theirs.
  local merged = {[node] = true}
  local n = redis.call('HMGET', nkey(node), 'parents', 'edges')
  for i = 1, 2 do
    for _, other in ipairs(cjson.decode(n[i] or '[]')) do merged[other] = true end
  end
  local now, fields = {}, {}
  if locked > 0 then
    local all = redis.call('HGETALL', part('writers'))
    for i = 1, #all, 2 do now[all[i]] = all[i + 1] end
  else
    now = values(part('writers'), written)
  end
  local function without_merged(path)
    local names = {}
    for name in string.gmatch(now[path] or '', '[^|]+') do
      if not merged[name] then names[#names + 1] = name end
    end
    return names
  end
  for old in pairs(now) do
    for i = 1, locked do
      if now[old] and is_below(old, written[i]) then
        local left = table.concat(without_merged(old), '|')
        if left == '' then redis.call('HDEL', part('writers'), old)
        elseif left ~= now[old] then redis.call('HSET', part('writers'), old, left) end
      end
    end
  end
  for _, path in ipairs(written) do
    local names = without_merged(path)
    names[#names + 1] = node
    fields[#fields + 1] = path
    fields[#fields + 1] = table.concat(names, '|')
  end
  for at = 1, #fields, FIELDS_MAX do
    redis.call('HSET', part('writers'), unpack(fields, at, math.min(at + FIELDS_MAX - 1, #fields)))
  end
end

local function lines(text)
  local out = {}
  for line in string.gmatch(text or '', '[^\n]+') do out[#out + 1] = line end
  return out
end
