-- Note the slots of the registered workers by queue, take back the room of woken nodes whose queue nobody
-- consumes any more (they would keep it from the others), and wake what has room now.
-- ARGV: 1 '' (no run), then pairs: queue, slots
-- returns: 'noted'; then the answer (others: what to send)
redis.call('DEL', 'af:capacity')
for i = 2, #ARGV, 2 do redis.call('HSET', 'af:capacity', ARGV[i], ARGV[i + 1]) end

local function is_unserved(queue)
  return queue ~= 'agentflow.system' and redis.call('HEXISTS', 'af:capacity', queue) == 0
end

local stuck = false
for _, field in ipairs(redis.call('HKEYS', 'af:flight')) do
  local queue = string.match(field, '^queue:(.*)$')
  stuck = stuck or (queue and is_unserved(queue))
end
for _, run in ipairs(stuck and #ARGV > 1 and redis.call('SMEMBERS', 'af:open') or {}) do
  turn_to(run)
  for _, node in ipairs(redis.call('ZRANGE', part('ready'), 0, -1)) do
    local n = redis.call('HMGET', nkey(node), 'role', 'queue', 'woken', 'complexity')
    local queue = queue_of(n[2], n[1])
    if n[3] == '1' and is_unserved(queue) then
      enter(n[1], queue, -1, n[4])
      park(node, 'fleet: no worker consumes the queue ' .. queue, true)
    end
  end
end
turn_to('')
wake()
return answer({'noted'})
