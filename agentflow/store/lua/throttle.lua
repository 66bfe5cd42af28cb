-- The governor: who may call a provider now, one count for the whole fleet, all windows or none.
-- ARGV: 1 run ('' for none), 2 'enter' | 'leave' | 'told' | 'failed' | 'quit', 3 node, 4 fence, 5 number of the
--       call in the attempt, 6 windows (lines; the first is the endpoint's own), 7 tokens (enter: estimate; leave:
--       the real ones, -1: as estimated), 8 length of a window (ms); then
--       enter: 9 patience (ms; -1: endless), 10 bound of the pass (ms) · leave: 9 how long it took (ms),
--       10 '1' when the provider answered · told: 9 wait (ms, -1: it did not say), 10 why ·
--       failed: 9 failures in a row that open the breaker (0: never), 10 cool-down (ms), 11 why
-- returns: enter: 'granted' | 'wait', look again (ms), expected (ms), reason | 'later', expected, '', reason |
--          'superseded'; told and failed: 'noted', how long it is closed (ms); others: 'noted'
local MOST_STRIKES_MS, MOST_TRIPS_MS = 60000, 600000

-- Never shorter than it is kept already: a provider may be closed for longer than that. `till`: nor than until then.
local function keep(key, till)
  redis.call('PEXPIRE', key, math.max(IDLE + 2 * SPAN, math.ceil((till or NOW) - NOW), redis.call('PTTL', key)))
end

-- The node's own word for `why`, and an event when it begins to wait.
local function tell(reason, till)
  if RUN_ID == '' then return end
  local was = redis.call('HGET', nkey(node), 'throttled')
  if reason == '' then
    if was then redis.call('HDEL', nkey(node), 'throttled') end
  elseif redis.call('EXISTS', nkey(node)) == 1 then
    redis.call('HSET', nkey(node), 'throttled', fence .. '|' .. till .. '|' .. reason)
    if not was or string.match(was, '^%d+') ~= fence then
      emit('node.throttled', node, '', redis.call('HGET', nkey(node), 'attempt'), reason)
    end
  end
end

local function grant(tokens)
  for _, w in ipairs(windows) do
    if redis.call('HDEL', w.key .. ':line', owner) == 1 then redis.call('DEL', BELL .. owner) end
    if w.trial then redis.call('HSET', w.key, 'trial', owner, 'trial_till', NOW + math.min(ARGV[10], 120000)) end
    if w.counted then
      redis.call('ZADD', w.key .. ':held', NOW + ARGV[10], pass)
      redis.call('PEXPIRE', w.key .. ':held', math.max(ARGV[10] + 1000, redis.call('PTTL', w.key .. ':held')))
    end
    -- A client that lost the answer asks again under the same number: it is counted once.
    if w.counted and redis.call('ZADD', w.key .. ':log', 'NX', NOW, pass) == 1 then
      redis.call('HSET', w.key .. ':sizes', pass, tokens)
      redis.call('HINCRBY', w.key, 'tokens', tokens)
      for _, key in ipairs({w.key, w.key .. ':log', w.key .. ':sizes'}) do keep(key) end
      if w.capacity > 0 and w.refill_rate > 0 then
        -- `tat` is when the bucket is full again: forgotten before, it would be full at once.
        local tat = math.max(tonumber(redis.call('HGET', w.key, 'tat') or 0), NOW) + 1000 / w.refill_rate
        redis.call('HSET', w.key, 'tat', tat)
        keep(w.key, tat)
      end
    end
  end
  tell('')
  return {'granted'}
end

-- Whether this very call was let in before, and only its answer was lost: it must not wait for itself.
local function has_pass()
  for _, w in ipairs(windows) do
    if w.counted then return tonumber(redis.call('ZSCORE', w.key .. ':held', pass) or 0) > NOW end
  end
  return false
end

local function enter(tokens)
  if RUN_ID ~= '' and not redis.call('ZSCORE', 'af:leases', lease) then return {'superseded'} end
  read_limits()
  if has_pass() then return grant(tokens) end
  local at, sure, reason, refused = 0, 'time', '', {}
  for i, w in ipairs(windows) do
    local till, exact, why = refusal(w, tokens)
    refused[i] = till > 0
    if till > at then at, sure, reason = till, exact, 'provider: ' .. why end
  end
  if at == 0 then return grant(tokens) end
  local expected, far = math.max(1, math.ceil(at - NOW)), 0
  for i, w in ipairs(windows) do
    if refused[i] then far = math.max(far, w.far) end
  end
  -- Room that depends on others is looked for sooner, in case that nobody rings (a worker died).
  local look = sure == 'time' and math.min(expected, 15 * LOOK) or LOOK + 50 * far
  if sure == 'most' then look = math.min(expected, look) end
  local patience = tonumber(ARGV[9])
  local later = patience >= 0 and expected > patience
  local back = NOW + (later and expected or look)
  for i, w in ipairs(windows) do
    if refused[i] then
      redis.call('HSET', w.key .. ':line', owner,
        string.format('%.0f|%.0f|%.0f|%d|%d', w.arrival, back, tokens, w.firm and 1 or 0, later and 0 or 1))
      redis.call('PEXPIRE', w.key .. ':line', math.max(IDLE, 2 * expected))
    else
      redis.call('HDEL', w.key .. ':line', owner)
    end
  end
  tell(reason, string.format('%.0f', NOW + expected))
  if later then return {'later', expected, '', reason} end
  return {'wait', look, expected, reason}
end

-- The endpoint answered: what was held against it is forgotten.
local function recover(w)
  local s = redis.call('HMGET', w.key, 'strikes', 'fails', 'open')
  if s[1] or s[2] then redis.call('HDEL', w.key, 'strikes', 'fails', 'open', 'trips', 'trial', 'trial_till') end
  if s[3] and RUN_ID ~= '' then emit('breaker.closed', '', '', 0, 'provider: ' .. say(w) .. ' answers again') end
end

local function leave_all(tokens)
  for i, w in ipairs(windows) do
    local is_released = redis.call('ZREM', w.key .. ':held', pass) == 1
    if is_released then
      local mean = tonumber(redis.call('HGET', w.key, 'mean_ms') or ARGV[9])
      redis.call('HSET', w.key, 'mean_ms', math.floor(0.8 * mean + 0.2 * ARGV[9]))
      keep(w.key)
    end
    local counted = tokens >= 0 and redis.call('HGET', w.key .. ':sizes', pass)
    if counted then
      redis.call('HSET', w.key .. ':sizes', pass, tokens)
      redis.call('HINCRBY', w.key, 'tokens', tokens - counted)
    end
    if i == 1 and ARGV[10] == '1' then recover(w) end
    if is_released and redis.call('EXISTS', w.key .. ':line') == 1 then ring(w) end
  end
  return {'noted'}
end

-- The provider asked for a pause: nobody calls it before. Those who were told at the same time count as one.
local function told(w, wait, why)
  local s = redis.call('HMGET', w.key, 'closed', 'strikes')
  local closed, strikes = tonumber(s[1] or 0), tonumber(s[2] or 0)
  if closed <= NOW then
    strikes = strikes + 1
    redis.call('HSET', w.key, 'strikes', strikes)
    -- Without a time, or when its own was too short again and again, it is doubled from half a second on.
    local own = math.min(MOST_STRIKES_MS, 250 * 2 ^ strikes)
    if wait < 0 or strikes > 2 then wait = math.max(wait, own) end
  end
  closed = math.max(closed, math.ceil(NOW + math.max(wait, 0)))
  redis.call('HSET', w.key, 'closed', closed, 'why', say(w) .. ' ' .. why)
  redis.call('PEXPIRE', w.key, IDLE + closed - NOW)
  return {'noted', closed - NOW}
end

-- An attempt failed for the provider's sake. N in a row, or a trial that failed, open the breaker.
local function failed(w, most, cool, why)
  local fails = redis.call('HINCRBY', w.key, 'fails', 1)
  local s = redis.call('HMGET', w.key, 'open', 'trial', 'trips')
  keep(w.key)
  if s[1] and s[2] ~= owner then return {'noted', math.max(0, s[1] - NOW)} end
  if most == 0 or (fails < most and not s[1]) then return {'noted', 0} end
  local trips = tonumber(s[3] or 0)
  local open = NOW + math.min(MOST_TRIPS_MS, cool * 2 ^ trips)
  local reason = 'breaker: ' .. say(w) .. ' failed ' .. fails .. ' times in a row: ' .. why
  redis.call('HSET', w.key, 'open', open, 'trips', trips + 1, 'why', reason)
  redis.call('HDEL', w.key, 'trial', 'trial_till')
  redis.call('PEXPIRE', w.key, IDLE + open - NOW)
  if RUN_ID ~= '' then emit('breaker.opened', node, '', 0, 'provider: ' .. reason) end
  return {'noted', open - NOW}
end

local function quit()
  for _, w in ipairs(windows) do redis.call('HDEL', w.key .. ':line', owner) end
  tell('')
  return {'noted'}
end

local number = tonumber(ARGV[7])
if verb == 'enter' then return enter(number) end
if verb == 'leave' then return leave_all(number) end
if verb == 'told' then return told(windows[1], tonumber(ARGV[9]), ARGV[10]) end
if verb == 'failed' then return failed(windows[1], tonumber(ARGV[9]), tonumber(ARGV[10]), ARGV[11]) end
return quit()
