-- Locks on paths, shared by every script (loaded after lib.lua).
-- A lock is a text: its mode (`w` write, `r` read, `a` append), a colon and its path ('' is the whole tree).
-- A table of locks is a hash: `<mode>:<path>` -> who holds it there (| between names; only r and a are shared) and
-- `i<mode>:<path>`, the intention -> how many locks of that mode are held below the path, and `n<mode>:<path>` -> who
-- took one there last, |, its path (a hint: it may be given back by now). A run has a table for its nodes and one for
-- those that wait, a project one for its exclusive runs.
-- A lock covers its path and all below it. Another holder's lock of these modes stands in its way (x):
--        at the path or above it    below it (intention)
--        w  r  a                    iw ir ia
--    w   x  x  x                    x  x  x
--    r   x  .  x                    x  .  x
--    a   x  x  .                    x  x  .
-- Nobody stands in their own way: to read a tree and write below it (S + IX) is `r` above and `w` below, and
-- what others may do beside it follows. Cost: one read for all paths and the depth of each, one write.
local CLASH = {w = {'w', 'r', 'a'}, r = {'w', 'a'}, a = {'w', 'r'}}
-- Fields in one call: Lua's stack holds some thousand values.
local FIELDS_MAX = 1000

local function mode_of(lock) return string.sub(lock, 1, 1) end
local function path_of(lock) return string.sub(lock, 3) end
local function shown(path) return path == '' and '**' or path end

local function ancestors(path)
  local out = {}
  local at = path
  while at ~= '' do
    at = string.match(at, '^(.*)/[^/]*$') or ''
    out[#out + 1] = at
  end
  return out
end

local function is_below(path, top)
  return path ~= top and (top == '' or string.sub(path, 1, #top + 1) == top .. '/')
end

local function overlap(a, b) return a == b or is_below(a, b) or is_below(b, a) end

-- Whether holding `one` is enough where `other` is asked for.
local function suffices(one, other)
  local same = mode_of(one) == mode_of(other) or mode_of(one) == 'w'
  return same and (path_of(one) == path_of(other) or is_below(path_of(other), path_of(one)))
end

-- The path of the first of `those` that clashes with one of `these`, false when none does.
local function clash_any(these, those)
  for _, one in ipairs(these) do
    for _, other in ipairs(those) do
      local shared = mode_of(one) == mode_of(other) and mode_of(one) ~= 'w'
      if not shared and overlap(path_of(one), path_of(other)) then
        return path_of(other)
      end
    end
  end
  return false
end

-- What these fields of a hash hold, by field (false: nothing).
local function values(where, fields)
  local out = {}
  for at = 1, #fields, FIELDS_MAX do
    local last = math.min(at + FIELDS_MAX - 1, #fields)
    local some = redis.call('HMGET', where, unpack(fields, at, last))
    for i = 1, #some do out[fields[at + i - 1]] = some[i] end
  end
  return out
end

-- The first of `names` that is not `who`.
local function another(names, who)
  for name in string.gmatch(names or '', '[^|]+') do
    if name ~= who then return name end
  end
  return nil
end

-- Who holds a lock of this mode below the path; only asked when a name is to be told. The hint knows, else the
-- table is looked through, and the hint is a good one again.
local function holder_below(where, who, mode, path)
  local hint = 'n' .. mode .. ':' .. path
  local name, at = string.match(redis.call('HGET', where, hint) or '', '^([^|]*)|(.*)$')
  if name and name ~= who then
    local names = '|' .. (redis.call('HGET', where, mode .. ':' .. at) or '') .. '|'
    if string.find(names, '|' .. name .. '|', 1, true) then return name end
  end
  local top = path == '' and '' or string.gsub(path, '[%[%]%*%?\\]', '\\%0') .. '/'
  local cursor = '0'
  repeat
    local found = redis.call('HSCAN', where, cursor, 'MATCH', mode .. ':' .. top .. '*', 'COUNT', 10000)
    cursor = found[1]
    for i = 2, #found[2], 2 do
      local other = another(found[2][i], who)
      if other then
        redis.call('HSET', where, hint, other .. '|' .. string.sub(found[2][i - 1], 3))
        return other
      end
    end
  until cursor == '0'
  return '?'
end

-- Who stands in the way of `who` taking the locks `asked`, and at which of their paths; nil when nobody does.
-- `held`: what `who` holds in this table. `named`: the name will be told.
local function conflict(where, who, asked, held, named)
  local fields = {}
  for _, lock in ipairs(asked) do
    local path = path_of(lock)
    for _, mode in ipairs(CLASH[mode_of(lock)]) do
      fields[#fields + 1] = mode .. ':' .. path
      fields[#fields + 1] = 'i' .. mode .. ':' .. path
      for _, up in ipairs(ancestors(path)) do fields[#fields + 1] = mode .. ':' .. up end
    end
  end
  local found = values(where, fields)
  for _, lock in ipairs(asked) do
    local path = path_of(lock)
    for _, mode in ipairs(CLASH[mode_of(lock)]) do
      local other = another(found[mode .. ':' .. path], who)
      for _, up in ipairs(other and {} or ancestors(path)) do
        other = other or another(found[mode .. ':' .. up], who)
      end
      if other then return other, path end
      local below = tonumber(found['i' .. mode .. ':' .. path] or 0)
      for _, mine in ipairs(below > 0 and held or {}) do
        if mode_of(mine) == mode and is_below(path_of(mine), path) then below = below - 1 end
      end
      if below > 0 then return named and holder_below(where, who, mode, path) or '?', path end
    end
  end
  return nil
end

-- Write the table anew where `who` takes (or gives back) these locks. What is held already, or is not, stays.
local function record(where, who, locks, taking)
  local fields, known = {}, {}
  local function need(field)
    if not known[field] then
      known[field] = true
      fields[#fields + 1] = field
    end
  end
  for _, lock in ipairs(locks) do
    need(lock)
    for _, up in ipairs(ancestors(path_of(lock))) do need('i' .. mode_of(lock) .. ':' .. up) end
  end
  local now = values(where, fields)
  for _, lock in ipairs(locks) do
    local names = '|' .. (now[lock] or '') .. '|'
    local from_to, to = string.find(names, '|' .. who .. '|', 1, true)
    if taking and not from_to then
      now[lock] = now[lock] and now[lock] .. '|' .. who or who
    elseif not taking and from_to then
      now[lock] = string.sub(string.sub(names, 1, from_to) .. string.sub(names, to + 1), 2, -2)
    end
    if taking == not from_to then
      for _, up in ipairs(ancestors(path_of(lock))) do
        local field = 'i' .. mode_of(lock) .. ':' .. up
        now[field] = tonumber(now[field] or 0) + (taking and 1 or -1)
      end
    end
  end
  local set, gone, hints = {}, {}, {}
  for _, lock in ipairs(taking and locks or {}) do
    for _, up in ipairs(ancestors(path_of(lock))) do hints['i' .. mode_of(lock) .. ':' .. up] = path_of(lock) end
  end
  for _, field in ipairs(fields) do
    local value = now[field]
    if not value or value == '' or type(value) == 'number' and value <= 0 then
      gone[#gone + 1] = field
      if string.sub(field, 1, 1) == 'i' then gone[#gone + 1] = 'n' .. string.sub(field, 2) end
    else
      set[#set + 1] = field
      set[#set + 1] = value
      if hints[field] then
        set[#set + 1] = 'n' .. string.sub(field, 2)
        set[#set + 1] = who .. '|' .. hints[field]
      end
    end
  end
  for at = 1, #set, FIELDS_MAX do redis.call('HSET', where, unpack(set, at, math.min(at + FIELDS_MAX - 1, #set))) end
  for at = 1, #gone, FIELDS_MAX do redis.call('HDEL', where, unpack(gone, at, math.min(at + FIELDS_MAX - 1, #gone))) end
end

local function acquire(where, who, locks) if #locks > 0 then record(where, who, locks, true) end end
local function release(where, who, locks) if #locks > 0 then record(where, who, locks, false) end end
