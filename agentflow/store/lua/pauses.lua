-- What an operator, a budget or a breaker has paused, shared by every script (loaded after room.lua).
-- `af:paused` holds `fleet` and `role:<role>` -> since (ms), a blank, the reason. A run has its own state.

-- Whether nobody asked for a pause: such a one does not replace another, nor a drain; a user's takes its place.
local function is_automatic(reason)
  return string.sub(reason, 1, 8) == 'budget: ' or string.sub(reason, 1, 9) == 'breaker: '
end

-- Read once a script, unless the script changes it (pause.lua, breaker.lua).
local paused_now = nil
local function forget_pauses() paused_now = nil end

-- Why nothing of this role may start now, '' when it may. A breaker's pause lets the node through that it tries.
local function paused(role, node)
  if not paused_now then
    local all = redis.call('HGETALL', 'af:paused')
    paused_now = {}
    for i = 1, #all, 2 do paused_now[all[i]] = string.match(all[i + 1], '^%d+ (.*)$') end
  end
  if paused_now.fleet then return 'paused: the fleet: ' .. paused_now.fleet end
  local why = paused_now['role:' .. role]
  if not why then return '' end
  if node and is_automatic(why) and redis.call('HGET', 'af:breakers', 'trial:' .. role) == RUN_ID .. '|' .. node then
    return ''
  end
  return 'paused: role ' .. role .. ': ' .. why
end

-- The run stands still from now on, or goes on: the time between is not held against its timeout.
local function stand_still() redis.call('HSETNX', RUN, 'still_ms', NOW) end
local function go_on()
  local r = redis.call('HMGET', RUN, 'still_ms', 'since_ms')
  if r[1] then redis.call('HSET', RUN, 'since_ms', (tonumber(r[2]) or NOW) + NOW - tonumber(r[1])) end
  redis.call('HSET', RUN, 'went_on_ms', NOW)
  redis.call('HDEL', RUN, 'still_ms')
end

-- Pause this run, if it is in one of the states `allowed` or paused already; whether that changed anything.
local function pause_run(reason, allowed)
  local r = redis.call('HMGET', RUN, 'state', 'reason')
  local state = r[1]
  if is_automatic(reason) then
    if state ~= 'open' then return false end
  elseif state == 'paused' then
    if not is_automatic(r[2] or '') then return false end
  elseif not from(state or '', allowed or 'open') then
    return false
  end
  stand_still()
  redis.call('HSET', RUN, 'state', 'paused', 'reason', reason)
  emit('run.paused', '', 'paused', 0, reason)
  return true
end

-- Why nothing of a run in this state starts.
local function standing(state)
  local why = (state == 'paused' or state == 'draining') and redis.call('HGET', RUN, 'reason') or ''
  return 'the run is ' .. (state or 'gone') .. (why ~= '' and ': ' .. why or '')
end
