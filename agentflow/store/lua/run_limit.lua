-- Set how many nodes of one run are at work at once, all or those of a role, and wake what has room now.
-- ARGV: 1 run, 2 'all' or a role, 3 nodes at once (0: no limit)
-- returns: 'set' | 'unknown' (no such run, or no such role in it); then the answer
local raw = redis.call('HGET', RUN, 'order')
if not raw then return answer({'unknown'}) end
local found = ARGV[2] == 'all'
if found then redis.call('HSET', RUN, 'max_concurrent', ARGV[3]) end
for _, node in ipairs(found and {} or cjson.decode(raw)) do
  if redis.call('HGET', nkey(node), 'role') == ARGV[2] then
    redis.call('HSET', nkey(node), 'role_limit', ARGV[3])
    found = true
  end
end
if not found then return answer({'unknown'}) end
emit('run.limited', '', '', 0, ARGV[2] .. '=' .. ARGV[3])
wake()
return answer({'set'})
