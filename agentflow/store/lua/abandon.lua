-- Give up a run whose record is broken: whatever is held or counted for it elsewhere is free, and its keys are gone.
-- Nothing of it is believed: what is shared is counted anew from the other runs.
-- ARGV: 1 run
-- returns: 'abandoned'; then the answer (others: what to send)

-- The names of keys; a `name` may be anything at all.
local function find(before, name, after)
  local out, cursor = {}, '0'
  local pattern = before .. string.gsub(name, '[%[%]%*%?\\]', '\\%0') .. after
  repeat
    local found = redis.call('SCAN', cursor, 'MATCH', pattern, 'COUNT', 1000)
    cursor = found[1]
    for _, key in ipairs(found[2]) do out[#out + 1] = key end
  until cursor == '0'
  return out
end

local function is(key, kind) return redis.call('TYPE', key).ok == kind end

-- Its calls under way count with their estimates; without its project nobody knows in which budgets of a day.
if is(RUN, 'hash') and is(part('budget'), 'hash') and redis.call('HGET', RUN, 'project') then
  for _, field in ipairs(redis.call('HKEYS', part('budget'))) do
    local node, fence, id = string.match(field, '^hold:(.*)|(%d+)|(.*)$')
    if node then free_hold(node, fence, id) end
  end
end
redis.call('SREM', 'af:open', RUN_ID)
for _, key in ipairs({'af:runs', 'af:short', 'af:holding'}) do redis.call('ZREM', key, RUN_ID) end
for _, key in ipairs({'af:leases', 'af:delayed'}) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    if string.sub(member, 1, #RUN_ID + 1) == RUN_ID .. '|' then redis.call('ZREM', key, member) end
  end
end
for _, key in ipairs(find('af:hungry:', '', '*')) do redis.call('HDEL', key, RUN_ID) end
for _, key in ipairs(find('af:project:', '', '*:wait')) do redis.call('ZREM', key, RUN_ID) end
for _, key in ipairs(find('af:project:', '', '*:locks')) do
  local held, all = {}, redis.call('HGETALL', key)
  for i = 1, #all, 2 do
    local names = '|' .. all[i + 1] .. '|'
    if not string.find(all[i], '^[in]') and string.find(names, '|' .. RUN_ID .. '|', 1, true) then held[#held + 1] = all[i] end
  end
  release(key, RUN_ID, held)
end
local breakers = redis.call('HGETALL', 'af:breakers')
for i = 1, #breakers, 2 do
  local is_trial = string.sub(breakers[i], 1, 6) == 'trial:'
  if is_trial and string.sub(breakers[i + 1], 1, #RUN_ID + 1) == RUN_ID .. '|' then redis.call('HDEL', 'af:breakers', breakers[i]) end
end
for _, key in ipairs(find('af:run:', RUN_ID, ':*')) do redis.call('DEL', key) end
redis.call('DEL', RUN)

-- What is reserved of the days' budgets, who waits for room, and what is in flight, say the runs that are left.
local function recount_reserved()
  local due = {}
  for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
    turn_to(run)
    local all = redis.call('HGETALL', part('budget'))
    for i = 1, #all, 2 do
      if string.sub(all[i], 1, 5) == 'hold:' then
        local amount, day, role = amount_of(all[i + 1])
        for _, purse in ipairs(purses('', role, day)) do
          for _, unit in ipairs(DAILY[purse.scope] and UNITS or {}) do
            local name = purse.key .. ' held:' .. purse.scope .. ':' .. unit
            due[name] = (due[name] or 0) + amount[unit]
          end
        end
      end
    end
  end
  for _, before in ipairs({'af:project:', 'af:org:'}) do
    for _, key in ipairs(find(before, '', '*spent:*')) do
      for _, field in ipairs(redis.call('HKEYS', key)) do
        if string.sub(field, 1, 5) == 'held:' then
          redis.call('HSET', key, field, string.format('%.0f', due[key .. ' ' .. field] or 0))
        end
      end
    end
  end
end

recount_reserved()
local waiting = {}
for _, key in ipairs(find('af:waiting:', '', '*')) do
  local class, count = string.sub(key, #'af:waiting:' + 1), 0
  redis.call('ZREM', key, ARGV[1])
  for _, run in ipairs(redis.call('ZRANGE', key, 0, -1)) do
    count = count + tonumber(redis.call('HGET', 'af:run:' .. run .. ':waits', class) or 0)
  end
  if count > 0 then waiting[class] = count end
end
refill('af:waiting', waiting)
local running, flight = find_running(), {}
for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
  turn_to(run)
  count_flight(running[run] or {}, flight)
end
refill('af:flight', flight)
for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
  turn_to(run)
  if redis.call('EXISTS', part('parked')) == 1 then wake_own(true) end
end
turn_to('')
wake()
return answer({'abandoned'})
