-- Budgets and complexity classes, shared by every script (loaded after pauses.lua).
-- Amounts are whole numbers, so that sums are exact: tokens, and billionths of a US dollar (`usd`).
-- A run's `budget` holds by scope (`run`, `role:<role>`, `node:<node>`) and unit `limit:..`, `spent:..` and
-- `held:..` (reserved by calls under way); `hold:<node>|<fence>|<id>` -> one of those, `late:..` -> one whose
-- attempt ended before its bill came: usd, tokens, day, role, whether it counts without a bill.
-- A project has its limits of a day in `budget` and each day's figures in `spent:<day>`; all projects together
-- (scope `org`) in `af:org:budget` and `af:org:spent:<day>`.
-- `guards` of a run: `b` when a budget may hold it back, `c`: it has complexity classes, `s`: nodes that run alone.
local DAY_S, DAYS_KEPT = 86400, 40
local TODAY = string.format('%.0f', math.floor(T[1] / DAY_S))
-- Share of a budget from which on only the most important work starts.
local NEAR = 0.8
local UNITS = {'usd', 'tokens'}
-- The budgets that begin anew with each day.
local DAILY = {day = true, org = true}

-- Read once a script and run.
local guards = {}
local function guarded(what)
  if not guards[RUN_ID] then guards[RUN_ID] = redis.call('HGET', RUN, 'guards') or '' end
  return string.find(guards[RUN_ID], what, 1, true) ~= nil
end

-- The budgets that a node spends from, narrowest first; `called` as people call them.
local projects = {}
local function purses(node, role, day)
  local own = part('budget')
  if not projects[RUN_ID] then projects[RUN_ID] = project_key('') end
  local project = projects[RUN_ID]
  return {
    {called = 'node', scope = 'node:' .. node, key = own, limits = own},
    {called = 'role ' .. role, scope = 'role:' .. role, key = own, limits = own},
    {called = 'run', scope = 'run', key = own, limits = own},
    {called = 'day', scope = 'day', key = project .. 'spent:' .. day, limits = project .. 'budget'},
    {called = 'org', scope = 'org', key = 'af:org:spent:' .. day, limits = 'af:org:budget'},
  }
end

-- What a purse has of a unit: limit (nil: none), spent, held. Read once until something is added: a thousand
-- parked nodes ask for the same.
local read = {}
local function figures(purse, unit)
  local tail = purse.scope .. ':' .. unit
  local name = purse.key .. ' ' .. tail
  if not read[name] then
    local limit = tonumber(redis.call('HGET', purse.limits, 'limit:' .. tail) or nil)
    local f = limit and redis.call('HMGET', purse.key, 'spent:' .. tail, 'held:' .. tail) or {}
    read[name] = {limit, tonumber(f[1] or 0), tonumber(f[2] or 0)}
  end
  return read[name][1], read[name][2], read[name][3]
end

local function told(n, unit)
  if unit == 'tokens' then return string.format('%.0f tokens', n) end
  return string.format(n > 0 and n < 1e8 and '$%.4f' or '$%.2f', n / 1e9)
end

-- The budget that has no room for `want` more (by unit; nil: all have), why, and whether what is spent alone is the
-- cause. The first, but before one that only calls under way are in the way of, one that is spent: waiting is in vain.
local function lacking(where, want)
  local short, why = nil, nil
  for _, purse in ipairs(where) do
    for _, unit in ipairs(UNITS) do
      local limit, spent, held = figures(purse, unit)
      local is_spent = limit and spent + want[unit] > limit
      if limit and spent + held + want[unit] > limit and (not short or is_spent) then
        local text = 'budget: ' .. purse.called .. ': ' .. told(spent, unit) .. ' of ' .. told(limit, unit) .. ' spent'
        if held > 0 then text = text .. ', ' .. told(held, unit) .. ' reserved' end
        if want[unit] > 1 then text = text .. ', ' .. told(want[unit], unit) .. ' more wanted' end
        if is_spent then return purse, text, true end
        short, why = purse, text
      end
    end
  end
  return short, why, false
end

-- Add to a figure (`spent`, `held`) of every purse.
local function add(where, figure, amount)
  read = {}
  for _, purse in ipairs(where) do
    for _, unit in ipairs(UNITS) do
      if amount[unit] ~= 0 then
        redis.call('HINCRBY', purse.key, figure .. ':' .. purse.scope .. ':' .. unit, amount[unit])
        if DAILY[purse.scope] then redis.call('EXPIRE', purse.key, DAYS_KEPT * DAY_S) end
      end
    end
  end
end

local function minus(amount) return {usd = -amount.usd, tokens = -amount.tokens} end
local function record_of(amount, day, role, counts)
  return string.format('%.0f %.0f %s %s %s', amount.usd, amount.tokens, day, counts, role)
end
local function amount_of(record)
  local usd, tokens, day, counts, role = string.match(record, '^(%-?%d+) (%-?%d+) (%d+) (%d) (.*)$')
  return {usd = tonumber(usd), tokens = tonumber(tokens)}, day, role, counts
end

-- The attempt has ended and these of its calls have no bill yet: what they reserved is free again. A call to a
-- model counts with its estimate until its bill comes; whoever lost the node can still bring it, once (charge.lua).
local day_freed = false
local function free_hold(node, fence, id)
  local name = node .. '|' .. fence .. '|' .. id
  local record = redis.call('HGET', part('budget'), 'hold:' .. name)
  if not record then return end
  local amount, day, role, counts = amount_of(record)
  redis.call('HDEL', part('budget'), 'hold:' .. name)
  redis.call('HSET', part('budget'), 'late:' .. name, record)
  local where = purses(node, role, day)
  add(where, 'held', minus(amount))
  if counts == '1' then add(where, 'spent', amount) end
  day_freed = true
end

local function free_holds(node, fence, ids)
  for id in string.gmatch(ids, '%S+') do free_hold(node, fence, id) end
  redis.call('HDEL', nkey(node), 'holds')
end

-- How urgent the most urgent node of this run is that has not ended; kept until one ends (endings.lua: finish).
local urgent = {}
local function most_urgent()
  if not urgent[RUN_ID] then
    local least = math.huge
    for _, node in ipairs(redis.call('SMEMBERS', part('open'))) do
      least = math.min(least, tonumber(redis.call('HGET', nkey(node), 'urgency') or nil) or math.huge)
    end
    urgent[RUN_ID] = least
  end
  return urgent[RUN_ID]
end

-- Whether something of this run besides `node` is at work or about to be, and more important work is unfinished.
local function comes_after(node, urgency, woken)
  local r = redis.call('HMGET', RUN, 'mixed', 'in_flight')
  if r[1] ~= '1' or not urgency then return false end
  local moves = tonumber(r[2] or 0) - tonumber(woken or 0) > 0
  for _, other in ipairs(redis.call('ZRANGE', part('ready'), 0, 1)) do moves = moves or other ~= node end
  return moves and most_urgent() < urgency
end

-- Runs of which a budget held something back in this script: 'spent', or 'held' when calls under way are the
-- cause for one of its nodes at least.
local starved = {}

-- Why the node's budget (its role's, its run's, the day's or the org's) does not let it start, '' when it does. Its own is
-- asked at each call. `need`: what the last call that was refused to it wanted.
local function over_budget(node, role)
  if not guarded('b') then return '' end
  local n = redis.call('HMGET', nkey(node), 'need', 'urgency', 'woken')
  local usd, tokens = string.match(n[1] or '', '^(%d+) (%d+)$')
  local want = {usd = tonumber(usd or 1), tokens = tonumber(tokens or 1)}
  local near, where = nil, purses(node, role, TODAY)
  table.remove(where, 1)
  local purse, why, is_spent = lacking(where, want)
  if purse then
    if DAILY[purse.scope] then redis.call('ZADD', 'af:short', (TODAY + 1) * DAY_S * 1000, RUN_ID) end
    starved[RUN_ID] = is_spent and starved[RUN_ID] or is_spent and 'spent' or 'held'
    return why
  end
  for i = 2, #where do
    for _, unit in ipairs(UNITS) do
      local limit, spent, held = figures(where[i], unit)
      if limit and spent + held >= NEAR * limit then near = near or where[i].called end
    end
  end
  if near and comes_after(node, tonumber(n[2] or nil), n[3]) then
    starved[RUN_ID] = starved[RUN_ID] or 'spent'
    return 'budget: ' .. near .. ': less than a fifth is left, more important work goes first'
  end
  return ''
end

local function class_in_flight(class)
  if not class_used[class] then
    class_used[class] = 0
    for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
      class_used[class] = class_used[class] + tonumber(redis.call('HGET', 'af:run:' .. run .. ':classes', class) or 0)
    end
  end
  return class_used[class]
end

-- Why there is no room for one more node of this complexity, '' when there is: in the fleet when that has a limit
-- for it, else in the run.
local function class_full(node)
  if not guarded('c') then return '' end
  local n = redis.call('HMGET', nkey(node), 'complexity', 'woken')
  if (n[1] or '') == '' then return '' end
  local fleet, woken = tonumber(redis.call('HGET', 'af:limits', 'class:' .. n[1]) or 0), tonumber(n[2] or 0)
  if fleet > 0 then
    local is_full = class_in_flight(n[1]) - woken >= fleet
    return is_full and 'class: ' .. fleet .. ' of complexity ' .. n[1] .. ' at a time in the fleet' or ''
  end
  local most = tonumber(redis.call('HGET', RUN, 'most:' .. n[1]) or 0)
  local used = tonumber(redis.call('HGET', part('classes'), n[1]) or 0) - woken
  return most > 0 and used >= most and 'class: ' .. most .. ' of complexity ' .. n[1] .. ' at a time' or ''
end
