-- Circuit breakers of roles and runs, shared by every script (loaded after endings.lua; a provider's: throttle.lua).
-- `af:breakers` holds the settings (`role`, `run`: failures that open one, 0 or absent: never; `cool_down_ms`) and,
-- while there is something to hold, `fails:<role>`, `open:<role>` = until (ms) | how often, `trial:<role>` = run|node.
-- An open one is a pause like an operator's (`af:paused`, pauses.lua), which lets the trial through and nobody else.
local MOST_COOL_MS = 600000

local function unpause_role(role)
  redis.call('HDEL', 'af:breakers', 'fails:' .. role, 'open:' .. role, 'trial:' .. role)
  local why = redis.call('HGET', 'af:paused', 'role:' .. role)
  if not why or not string.find(why, '^%d+ breaker: ') then return false end
  redis.call('HDEL', 'af:paused', 'role:' .. role)
  forget_pauses()
  return true
end

-- A node of the role succeeded: whatever was held against it is forgotten, and what waited may go.
local function note_success(role)
  if redis.call('HEXISTS', 'af:breakers', 'fails:' .. role) == 0 or not unpause_role(role) then return end
  emit('breaker.closed', '', '', 0, 'role ' .. role .. ' works again')
  local home = RUN_ID
  for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
    turn_to(run)
    if run ~= home and redis.call('EXISTS', part('parked')) == 1 then wake_own(true) end
  end
  turn_to(home)
end

local function open_role(role, node, fails, cool, trips, reason)
  local till = NOW + math.min(MOST_COOL_MS, cool * 2 ^ trips)
  redis.call('HSET', 'af:breakers', 'open:' .. role, string.format('%.0f|%d', till, trips + 1))
  redis.call('HDEL', 'af:breakers', 'trial:' .. role)
  local why = string.format('breaker: %d of its nodes failed in a row; one is tried after %.0f s; the last: %s', fails,
    (till - NOW) / 1000, cut(reason, 200))
  local was = redis.call('HGET', 'af:paused', 'role:' .. role)
  if not was or string.find(was, '^%d+ breaker: ') then
    -- An operator's own pause is left alone.
    redis.call('HSET', 'af:paused', 'role:' .. role, NOW .. ' ' .. why)
  end
  forget_pauses()
  emit('breaker.opened', node, '', 0, 'role ' .. role .. ': ' .. why)
end

-- A node of the role failed for good: one too many in a row, or a trial that failed, opens the breaker.
local function note_role_failure(role, node, most, cool, reason)
  local s = redis.call('HMGET', 'af:breakers', 'open:' .. role, 'trial:' .. role)
  local paused_by = redis.call('HGET', 'af:paused', 'role:' .. role)
  if s[1] and not paused_by then
    -- Somebody has resumed the role: it begins anew.
    unpause_role(role)
    s = {}
  end
  local fails = redis.call('HINCRBY', 'af:breakers', 'fails:' .. role, 1)
  local trips = s[1] and tonumber(string.match(s[1], '|(%d+)$')) or 0
  if s[1] and s[2] == RUN_ID .. '|' .. node or not paused_by and fails >= most then
    open_role(role, node, fails, cool, trips, reason)
  end
end

-- Somebody lets the run go on: its own breaker counts from nought.
local function forget_failures() redis.call('HDEL', RUN, 'failed_nodes', 'breaker_trips', 'breaker_till') end

-- Whether a failure says something of role and run: a budget of the node's own that was too small does not.
local function is_counted(code) return string.sub(code or '', 1, 10) ~= 'AF-BUDGET-' end

-- Count a node that failed, for its role and for its run.
local function note_failure(role, node, reason)
  local s = redis.call('HMGET', 'af:breakers', 'role', 'run', 'cool_down_ms')
  local of_role, of_run, cool = tonumber(s[1] or 0), tonumber(s[2] or 0), tonumber(s[3] or 60000)
  if of_role > 0 then note_role_failure(role, node, of_role, cool, reason) end
  if of_run == 0 then return end
  local fails = redis.call('HINCRBY', RUN, 'failed_nodes', 1)
  if fails < of_run then return end
  local trips = tonumber(redis.call('HGET', RUN, 'breaker_trips') or 0)
  local wait = math.min(MOST_COOL_MS, cool * 2 ^ trips)
  if pause_run(string.format('breaker: %d of its nodes failed; it goes on after %.0f s', fails, wait / 1000)) then
    -- Half open afterwards: one more failure pauses it again, for longer.
    redis.call('HSET', RUN, 'breaker_till', NOW + wait, 'breaker_trips', trips + 1, 'failed_nodes', of_run - 1)
    emit('breaker.opened', node, '', 0, 'the run: ' .. fails .. ' of its nodes failed; the last: ' .. cut(reason, 200))
  end
end
