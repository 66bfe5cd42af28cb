-- Put right what nothing but a defect (or a hand in Redis) can make wrong: locks, room and reservations of nodes
-- that do not run, running nodes that nobody watches, waiting ones that nobody would find. A ledger that is whole stays
-- as it is.
-- ARGV: 1 '' (no run), 2 nodes of a run beyond which its nodes are not looked at one by one
-- returns: how much was put right, what (lines); then the answer (others: what to send)
local LOOKED_AT = tonumber(ARGV[2])
local told = {}
local function healed(what)
  told[#told + 1] = RUN_ID .. ': ' .. what
  emit('run.healed', '', '', 0, what)
end

local running = find_running()

-- Where a node of a state stands, so that somebody finds it: else it would wait for ever.
local function put_back(node, state)
  local name = RUN_ID .. '|' .. node
  if state == 'ready' and not redis.call('ZSCORE', part('ready'), node) then
    redis.call('ZADD', part('ready'), NOW, node)
  elseif state == 'delayed' and not redis.call('ZSCORE', 'af:delayed', name) then
    redis.call('ZADD', 'af:delayed', NOW, name)
  elseif state == 'parked' and not redis.call('ZSCORE', part('parked'), node)
    and not redis.call('ZSCORE', part('waiting'), node) then
    redis.call('ZADD', part('parked'), redis.call('HGET', nkey(node), 'order') or 0, node)
  else
    return
  end
  healed(node .. ' was ' .. state .. ' and nobody would have found it')
end

-- A running node without a lease is given one: the leader ends it when nobody renews that.
local function watch(mine)
  if redis.call('SCARD', part('open')) > LOOKED_AT then return end
  for _, node in ipairs(redis.call('SMEMBERS', part('open'))) do
    local n = redis.call('HMGET', nkey(node), 'state', 'fence')
    if n[1] == 'running' and not mine[node] then
      mine[node] = n[2]
      redis.call('ZADD', 'af:leases', NOW, RUN_ID .. '|' .. node .. '|' .. n[2])
      healed(node .. ' was running without a lease')
    end
    put_back(node, n[1])
  end
end

local function check_locks(mine)
  local due, any = {}, false
  for node in pairs(mine) do
    for _, lock in ipairs(wants(node)) do due[lock .. '|' .. node] = true end
  end
  local all = redis.call('HGETALL', part('locks'))
  for i = 1, #all, 2 do
    if not string.find(all[i], '^[in]') then
      for name in string.gmatch(all[i + 1], '[^|]+') do
        if not due[all[i] .. '|' .. name] then
          healed('the lock ' .. shown(path_of(all[i])) .. ' was held for ' .. name .. ', which does not run')
          any = true
        end
        due[all[i] .. '|' .. name] = nil
      end
    end
  end
  if not any and not next(due) then return end
  if not any then healed('locks of running nodes were missing') end
  redis.call('DEL', part('locks'))
  for node in pairs(mine) do acquire(part('locks'), node, wants(node)) end
end

local function check_reservations(mine)
  for _, field in ipairs(redis.call('HKEYS', part('budget'))) do
    local node, fence, id = string.match(field, '^hold:(.*)|(%d+)|(.*)$')
    if node and mine[node] ~= fence then
      -- The node's list is that of its present attempt, where there is one.
      free_hold(node, fence, id)
      if not mine[node] then redis.call('HDEL', nkey(node), 'holds') end
      healed('budget was reserved for ' .. node .. ', which does not run')
    end
  end
end

-- What is in flight in the run, by what counts it; added to what is in all of them.
local flight = {}
local function check_room(mine)
  local total, roles, classes = count_flight(mine, flight)
  local counted = tonumber(redis.call('HGET', RUN, 'in_flight') or 0)
  if counted ~= total or not same(part('roles'), roles) or not same(part('classes'), classes) then
    healed('its nodes in flight were counted as ' .. counted .. ' and are ' .. total)
    redis.call('HSET', RUN, 'in_flight', total)
    refill(part('roles'), roles)
    refill(part('classes'), classes)
    for _, class in ipairs(redis.call('HKEYS', part('waits'))) do
      redis.call('ZADD', 'af:waiting:' .. class, 'XX', rank(), RUN_ID)
    end
  end
end

for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
  turn_to(run)
  if redis.call('HEXISTS', RUN, 'state') == 1 then
    local mine = running[run] or {}
    watch(mine)
    check_locks(mine)
    check_reservations(mine)
    check_room(mine)
  end
end
if not same('af:flight', flight) then
  told[#told + 1] = 'the nodes in flight of the fleet were counted wrong'
  refill('af:flight', flight)
end
if #told > 0 then
  for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
    turn_to(run)
    if redis.call('EXISTS', part('parked')) == 1 then wake_own(true) end
  end
end
turn_to('')
if #told > 0 then wake() end
return answer({#told, table.concat(told, '\n')})
