-- Exclusive runs, shared by every script (loaded after line.lua).
-- The table of the run's project says which exclusive run holds what, its line in which order they came.
local function project_key(name)
  return 'af:project:' .. (redis.call('HGET', RUN, 'project') or '') .. ':' .. name
end

-- Who keeps this run (which holds the locks `held`) from more of its project's, and the path and how; or nil.
-- An earlier one that waits is passed only where the two do not clash, or where it waits for this run anyway.
local function kept_out(asked, held)
  local holder, path = conflict(project_key('locks'), RUN_ID, asked, held, true)
  if holder then return holder, path, 'is held by' end
  for _, other in ipairs(redis.call('ZRANGE', project_key('wait'), 0, -1)) do
    if other == RUN_ID then break end
    local o = redis.call('HMGET', 'af:run:' .. other, 'exclusive', 'state')
    local theirs = o[2] == 'open' and cjson.decode(o[1] or '[]') or {}
    path = clash_any(theirs, asked)
    if path and not clash_any(theirs, held) then return other, path, 'is next for' end
  end
  return nil
end

-- Why an exclusive run may not begin, '' when it may: then it holds all of its artifacts from here on.
-- All or nothing and in order of arrival: a run that holds one part never waits for another.
local function barred()
  local r = redis.call('HMGET', RUN, 'exclusive', 'holds')
  if not r[1] or r[1] == '' or r[2] == '1' then return '' end
  local mine = cjson.decode(r[1])
  local other, path, how = kept_out(mine, {})
  if other then return 'exclusive: ' .. shown(path) .. ' ' .. how .. ' run ' .. other end
  acquire(project_key('locks'), RUN_ID, mine)
  redis.call('ZREM', project_key('wait'), RUN_ID)
  redis.call('HSET', RUN, 'holds', 1)
  return ''
end

-- Whether the run may have these locks too: it takes them at once (unless it only asks), or learns who is in the way.
-- It never waits for another run: it holds something already.
local function widen_run(asked, only_asks)
  local r = redis.call('HMGET', RUN, 'exclusive', 'holds')
  if not r[1] or r[1] == '' or r[2] ~= '1' then return nil end
  local mine, more = cjson.decode(r[1]), {}
  for _, lock in ipairs(asked) do
    local had = false
    for _, one in ipairs(mine) do had = had or suffices(one, lock) end
    if not had then more[#more + 1] = lock end
  end
  if #more == 0 then return nil end
  local other, path = kept_out(more, mine)
  if other or only_asks then return other, path end
  acquire(project_key('locks'), RUN_ID, more)
  for _, lock in ipairs(more) do mine[#mine + 1] = lock end
  redis.call('HSET', RUN, 'exclusive', cjson.encode(mine))
  return nil
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
