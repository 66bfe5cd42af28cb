-- The windows of the governor, shared by the verbs of throttle.lua (loaded after lib.lua).
-- A window is a name such as `runner:model`, `role:tester` or `at:api.openai.com/gpt-5`; `af:rates` holds what
-- it allows (JSON; `set:<window>` what an operator changed): rpm, tpm, concurrency, capacity and refill_rate.
-- `af:rate:<window>` has tokens, tat, mean_ms, closed, why, strikes and the breaker's fails, open, trips, trial;
-- its `:log` has the calls of the last minute, `:sizes` their tokens, `:held` those under way, `:line` who waits.
-- A log, not two buckets: no stretch of a window's length ever holds more than the limit, yet all of it is used.
local verb, node, fence = ARGV[2], ARGV[3], ARGV[4]
local owner = RUN_ID .. '|' .. node
local lease = owner .. '|' .. fence
local BELL = 'af:bell:'
local pass = lease .. '|' .. ARGV[5]
-- A call reaches the provider a little after it was let in, and some later than others: it counts for longer.
local SPAN = math.floor(tonumber(ARGV[8]) * 1.05)
-- Who comes within SOON has its room kept, until it is GRACE late; its place in the line is kept until it is LATE
-- while its node may still come (it needs a worker and a workspace first). State that nobody touches ends after IDLE.
local SOON, GRACE, LATE, LOOK, IDLE = 2000, 5000, 60000, 1000, 3600000

local windows = {}
for name in string.gmatch(ARGV[6], '[^\n]+') do windows[#windows + 1] = {name = name, key = 'af:rate:' .. name} end

local function say(w)
  local kind, name = string.match(w.name, '^(%l+):(.*)$')
  return kind == 'role' and 'role ' .. name or name
end

local function calls(n) return n .. (n == 1 and ' call' or ' calls') end

local function read_limits()
  local fields = {}
  for _, w in ipairs(windows) do
    fields[#fields + 1] = w.name
    fields[#fields + 1] = 'set:' .. w.name
  end
  local raw = redis.call('HMGET', 'af:rates', unpack(fields))
  for i, w in ipairs(windows) do
    for _, text in ipairs({raw[2 * i - 1] or '{}', raw[2 * i] or '{}'}) do
      for name, value in pairs(cjson.decode(text)) do w[name] = value end
    end
    for _, name in ipairs({'rpm', 'tpm', 'concurrency', 'capacity', 'refill_rate'}) do w[name] = w[name] or 0 end
    -- Where a limit is known at all everything is counted: one that is set live holds for the last minute too.
    w.counted = (raw[2 * i - 1] or raw[2 * i]) and true
  end
end

-- Forget calls that a window's length has passed over.
local function prune(w)
  local log = w.key .. ':log'
  while true do
    local old = redis.call('ZRANGEBYSCORE', log, '-inf', NOW - SPAN, 'LIMIT', 0, 500)
    if #old == 0 then return end
    local sum = 0
    for _, size in ipairs(redis.call('HMGET', w.key .. ':sizes', unpack(old))) do sum = sum + (tonumber(size) or 0) end
    redis.call('HINCRBY', w.key, 'tokens', 0 - sum)
    redis.call('HDEL', w.key .. ':sizes', unpack(old))
    redis.call('ZREM', log, unpack(old))
  end
end

-- Passes come back with their attempt: whoever lost the lease (or overran the bound) holds none.
local function under_way(w)
  local held = w.key .. ':held'
  redis.call('ZREMRANGEBYSCORE', held, '-inf', NOW)
  if redis.call('ZCARD', held) < w.concurrency then return redis.call('ZCARD', held) end
  for _, one in ipairs(redis.call('ZRANGE', held, 0, -1)) do
    local its = string.match(one, '^(.*)|[^|]*$')
    if string.sub(its, 1, 1) ~= '|' and not redis.call('ZSCORE', 'af:leases', its) then redis.call('ZREM', held, one) end
  end
  return redis.call('ZCARD', held)
end

local function is_gone(who, back)
  if back + GRACE >= NOW then return false end
  local run, its = string.match(who, '^(.+)|([^|]*)$')
  local state = run and redis.call('HGET', 'af:run:' .. run .. ':node:' .. its, 'state')
  return back + LATE < NOW or not (state == 'delayed' or state == 'ready' or state == 'running')
end

-- Who waits before this attempt: `here` already or due, `near` (room is kept for them), `far`: all of them.
-- One that was told to come much later is passed meanwhile, but once only (firm).
local function line(w)
  w.here, w.near, w.near_tokens, w.far, w.far_tokens, w.arrival, w.firm = 0, 0, 0, 0, 0, T[1] * 1e6 + T[2], false
  local all = redis.call('HGETALL', w.key .. ':line')
  local others = {}
  for i = 1, #all, 2 do
    local arrival, back, tokens, firm, listens = string.match(all[i + 1], '^(%d+)|(%d+)|(%d+)|(%d)|(%d)$')
    if all[i] == owner then
      w.arrival, w.firm = tonumber(arrival), firm == '1' or tonumber(back) <= NOW
    elseif is_gone(all[i], tonumber(back)) then
      redis.call('HDEL', w.key .. ':line', all[i])
    else
      others[#others + 1] = {tonumber(arrival), tonumber(back), tonumber(tokens), firm == '1', all[i], listens == '1'}
    end
  end
  for _, o in ipairs(others) do
    if o[1] < w.arrival or (o[1] == w.arrival and o[5] < owner) then
      w.far, w.far_tokens = w.far + 1, w.far_tokens + o[3]
      local is_late = o[2] + GRACE < NOW
      if not is_late and (o[4] or o[2] <= NOW + SOON) then w.near, w.near_tokens = w.near + 1, w.near_tokens + o[3] end
      -- A place that is free now would stand empty until a sleeper comes: it is kept for those who can take it.
      if not is_late and (o[6] or o[2] <= NOW) then w.here = w.here + 1 end
    end
  end
end

-- Room has come before its time: the first of those who wait inside an attempt is told to look now.
local function ring(w)
  local first, before = nil, math.huge
  local all = redis.call('HGETALL', w.key .. ':line')
  for i = 1, #all, 2 do
    local arrival, back, listens = string.match(all[i + 1], '^(%d+)|(%d+)|.*|(%d)$')
    if listens == '1' and all[i] ~= owner and tonumber(back) + GRACE >= NOW and tonumber(arrival) < before then
      first, before = all[i], tonumber(arrival)
    end
  end
  if not first then return end
  redis.call('RPUSH', BELL .. first, 1)
  redis.call('PEXPIRE', BELL .. first, GRACE)
end

-- When the `gone`-th oldest call of the log leaves it (the calls of a later round repeat its times).
local function leaves(w, count, gone)
  if count == 0 then return NOW + SPAN end
  local at = redis.call('ZRANGE', w.key .. ':log', (gone - 1) % count, (gone - 1) % count, 'WITHSCORES')
  return tonumber(at[2]) + SPAN * (1 + math.floor((gone - 1) / count))
end

-- When so many tokens have left the log.
local function freed(w, need)
  local log = redis.call('ZRANGE', w.key .. ':log', 0, 199, 'WITHSCORES')
  for i = 1, #log, 2 do
    need = need - (tonumber(redis.call('HGET', w.key .. ':sizes', log[i])) or 0)
    if need <= 0 then return tonumber(log[i + 1]) + SPAN end
  end
  return NOW + SPAN + math.floor(SPAN * need / w.tpm)
end

-- Until when the window has no room for this call (0: it has), how sure that is ('time': nothing comes before,
-- 'most': tokens that are not needed may, 'bell': whoever leaves rings), and why.
local function refusal(w, tokens)
  local s = redis.call('HMGET', w.key, 'closed', 'why', 'tokens', 'tat', 'mean_ms', 'open', 'trial',
    'trial_till')
  local closed, open, why = tonumber(s[1] or 0), tonumber(s[6] or 0), s[2] or ''
  line(w)
  local gap = w.refill_rate > 0 and 1000 / w.refill_rate or w.rpm > 0 and SPAN / w.rpm or 100
  if open > 0 and s[7] ~= owner then
    if open > NOW then return open + w.far * gap, 'time', why end
    if tonumber(s[8] or 0) > NOW then return NOW + LOOK, 'bell', why .. '; one call is under way to see' end
    w.trial = true  -- half open: this call decides
  end
  if closed > NOW then return closed + w.far * gap, 'time', why end
  if w.concurrency > 0 and under_way(w) + w.here >= w.concurrency then
    local turn = math.max(50, math.min(30000, tonumber(s[5] or 1000) * (w.far + 1) / w.concurrency))
    return NOW + turn, 'bell', say(w) .. ' allows ' .. calls(w.concurrency) .. ' at once, all are under way'
  end
  if w.capacity > 0 and w.refill_rate > 0 then
    local free = tonumber(s[4] or 0) - (w.capacity - 1) * gap
    if free + w.near * gap > NOW then
      return math.max(free + w.far * gap, NOW + 1), 'time', say(w) .. ' allows ' .. calls(w.capacity) .. ' at once and '
        .. w.refill_rate .. ' a second'
    end
  end
  if not w.counted then return 0 end
  prune(w)
  local count, mine = redis.call('ZCARD', w.key .. ':log'), math.min(tokens, w.tpm)
  local used = tonumber(redis.call('HGET', w.key, 'tokens') or 0)
  local minute = ' in ' .. math.floor(tonumber(ARGV[8]) / 1000) .. ' s, all are used'
  if w.rpm > 0 and count + w.near + 1 > w.rpm then
    return leaves(w, count, count + w.far + 1 - w.rpm), 'time', say(w) .. ' allows ' .. calls(w.rpm) .. minute
  end
  if w.tpm > 0 and used + w.near_tokens + mine > w.tpm and count + w.near > 0 then
    return freed(w, used + w.far_tokens + mine - w.tpm), 'most', say(w) .. ' allows ' .. w.tpm .. ' tokens' .. minute
  end
  return 0
end
