-- End as cancelled what has not started of one role; what needed it ends with it.
-- ARGV: 1 run, 2 role, 3 reason
-- returns: 'cancelled' | 'none'; then the answer
local any = false
for _, node in ipairs(redis.call('SMEMBERS', part('open'))) do
  local n = redis.call('HMGET', nkey(node), 'state', 'tolerant', 'role')
  if n[3] == ARGV[2] and n[1] ~= 'running' and n[2] ~= '1' and redis.call('SISMEMBER', part('open'), node) == 1 then
    forget(node)
    finish(node, 'cancelled', ARGV[3])
    any = true
  end
end
if any then wake() end
return answer({any and 'cancelled' or 'none'})
