-- Extend the leases of a worker's attempts, all in one call.
-- ARGV: 1 '' (no run), 2 lease ttl (ms), then triples: run, node, fence
-- returns: pairs of 'run|node|fence' and why, for those that are lost or must end
local lost = {}
local now = clock()
local till = now[1] * 1000 + math.floor(now[2] / 1000) + tonumber(ARGV[2])
for i = 3, #ARGV, 3 do
  local run, node, fence = ARGV[i], ARGV[i + 1], ARGV[i + 2]
  local key = 'af:run:' .. run .. ':node:' .. node
  local n = redis.call('HMGET', key, 'state', 'fence', 'tolerant')
  local id = run .. '|' .. node .. '|' .. fence
  local why = false
  if n[1] ~= 'running' or n[2] ~= fence then
    why = 'lost'
  elseif n[3] ~= '1' and redis.call('HGET', 'af:run:' .. run, 'state') == 'cancelling' then
    why = 'cancelled'
  end
  if why ~= 'lost' then
    redis.call('HSET', key, 'lease_ms', till)
    redis.call('ZADD', 'af:leases', till, id)
  end
  if why then
    lost[#lost + 1] = id
    lost[#lost + 1] = why
  end
end
return lost
