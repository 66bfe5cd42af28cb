-- Do one ended node again, as if for the first time: what was skipped or cancelled with it is pending once
-- more, the rest of the run stays as it is. A closed run is open again, as a new generation in either case.
-- ARGV: 1 run, 2 node, 3 states of a run that may be, 4 states of a node that may be
-- returns: 'again', state of the run | 'superseded', what is in the way; then the answer (ready: what to send)
local node = ARGV[2]
local r = redis.call('HMGET', RUN, 'state', 'order')
if not from(r[1] or '', ARGV[3]) then return answer({'superseded', 'the run is ' .. (r[1] or 'unknown')}) end
local state = redis.call('HGET', nkey(node), 'state')
if not from(state or '', ARGV[4]) then return answer({'superseded', 'it is ' .. (state or 'unknown')}) end

-- What goes with it: ended without an attempt of their own, and nothing else is in their way.
local order, again, left, last = cjson.decode(r[2]), {[node] = true}, 1, nil
local function is_settled(parent)
  local p = redis.call('HMGET', nkey(parent), 'state', 'optional')
  return p[1] == 'succeeded' or p[2] == '1' and (p[1] == 'failed' or p[1] == 'skipped' or p[1] == 'cancelled'), p[1]
end
local function is_over(s) return s == 'succeeded' or s == 'failed' or s == 'skipped' or s == 'cancelled' end
for _, other in ipairs(order) do
  local n = redis.call('HMGET', nkey(other), 'state', 'tolerant', 'parents')
  if n[2] == '1' then
    last = {other, n[1]}
  elseif n[1] == 'skipped' or n[1] == 'cancelled' then
    local touched, free = false, true
    for _, parent in ipairs(cjson.decode(n[3])) do
      local fine, is = is_settled(parent)
      touched = touched or again[parent] or false
      free = free and (again[parent] or fine or not is_over(is))
    end
    if touched and free and not again[other] then
      again[other] = true
      left = left + 1
    end
  end
end
if last and (last[2] == 'running' or last[2] == 'delayed') then return answer({'superseded', last[1] .. ' is ' .. last[2]}) end
for _, parent in ipairs(cjson.decode(redis.call('HGET', nkey(node), 'parents'))) do
  local fine, is = is_settled(parent)
  if is_over(is) and not fine then return answer({'superseded', parent .. ', which it needs, is ' .. is}) end
end

local was_closed = redis.call('SISMEMBER', 'af:open', RUN_ID) == 0
if was_closed then
  open_again('')
  redis.call('HSET', RUN, 'nodes_left', 0)
end
-- It failed, and that does not count any more.
local was_counted = not was_closed and state == 'failed' and is_counted(redis.call('HGET', nkey(node), 'code'))
if was_counted and tonumber(redis.call('HGET', RUN, 'failed_nodes') or 0) > 0 then
  redis.call('HINCRBY', RUN, 'failed_nodes', -1)
end
redis.call('HSET', RUN, 'stopped', 0)
redis.call('HINCRBY', RUN, 'generation', 1)
emit('run.retried', '', was_closed and 'open' or r[1], 0, node)
if last and last[2] ~= 'pending' and last[1] ~= node then
  -- The integration waits for this one too.
  again[last[1]] = true
  if last[2] == 'ready' then forget(last[1]) else left = left + 1 end
end
redis.call('HINCRBY', RUN, 'nodes_left', left)
for _, other in ipairs(order) do
  local waits, n = 0, redis.call('HMGET', nkey(other), 'parents', 'state', 'tolerant')
  for _, parent in ipairs(cjson.decode(n[1])) do
    local _, is = is_settled(parent)
    if again[parent] or not is_over(is) then waits = waits + 1 end
  end
  -- What has not begun waits for it too: it was optional, and is no longer over.
  if n[2] == 'pending' and not again[other] and n[3] ~= '1' then redis.call('HSET', nkey(other), 'parents_left', waits) end
  if again[other] then
    start_over(other, waits)
    emit('node.again', other, 'pending')
    -- The integration comes when nothing else is left, whatever it has for parents (endings.lua: finish).
    if waits == 0 and (n[3] ~= '1' or redis.call('SCARD', part('open')) == 1) then
      offer(other)
      ready[#ready + 1] = other
      emit('node.ready', other, 'ready')
    end
  end
end
wake()
return answer({'again', was_closed and 'open' or r[1]})
