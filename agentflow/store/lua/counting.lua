-- What is in flight, counted anew from the nodes themselves (loaded after breaker.lua, for heal.lua and abandon.lua).

-- Running nodes by run, with their tokens: those whose lease stands for their present token. Other leases are dropped.
local function find_running()
  local running = {}
  for _, member in ipairs(redis.call('ZRANGE', 'af:leases', 0, -1)) do
    local run, node, fence = string.match(member, '^([^|]*)|(.*)|(%d+)$')
    if run then
      local n = redis.call('HMGET', 'af:run:' .. run .. ':node:' .. node, 'state', 'fence')
      if n[1] == 'running' and n[2] == fence then
        running[run] = running[run] or {}
        running[run][node] = fence
      else
        redis.call('ZREM', 'af:leases', member)
      end
    end
  end
  return running
end

-- What is in flight in this run (of which `mine` run): all, by role, by class; and added to `flight` as in af:flight.
local function count_flight(mine, flight)
  local total, roles, classes = 0, {}, {}
  local function tell(node)
    local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'complexity')
    local role, class = n[1], n[3] or ''
    total = total + 1
    roles[role] = (roles[role] or 0) + 1
    if class ~= '' then classes[class] = (classes[class] or 0) + 1 end
    for _, field in ipairs({'fleet', 'role:' .. role, 'queue:' .. queue_of(n[2], role)}) do
      flight[field] = (flight[field] or 0) + 1
    end
  end
  for node in pairs(mine) do tell(node) end
  for _, node in ipairs(redis.call('ZRANGE', part('ready'), 0, -1)) do
    if redis.call('HGET', nkey(node), 'woken') == '1' then tell(node) end
  end
  return total, roles, classes
end

-- Whether the hash holds exactly these numbers.
local function same(key, due)
  local all, seen = redis.call('HGETALL', key), 0
  for i = 1, #all, 2 do
    if tonumber(all[i + 1]) ~= (due[all[i]] or 0) then return false end
    if due[all[i]] then seen = seen + 1 end
  end
  local most = 0
  for _ in pairs(due) do most = most + 1 end
  return seen == most
end

local function refill(key, due)
  redis.call('DEL', key)
  for field, n in pairs(due) do redis.call('HSET', key, field, n) end
end
