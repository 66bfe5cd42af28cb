-- Set how many nodes of one run are at work at once, all, those of a role or of a complexity; wakes what has room.
-- ARGV: 1 run, 2 'all', a role or 'class:<complexity>', 3 nodes at once (0: no limit)
-- returns: 'set' | 'unknown' (no such run, or nothing of that name in it); then the answer
local raw = redis.call('HGET', RUN, 'order')
if not raw then return answer({'unknown'}) end
local found = ARGV[2] == 'all'
if found then redis.call('HSET', RUN, 'max_concurrent', ARGV[3]) end
local class = string.match(ARGV[2], '^class:(.*)$')
for _, node in ipairs(found and {} or cjson.decode(raw)) do
  if class and redis.call('HGET', nkey(node), 'complexity') == class then
    redis.call('HSET', RUN, 'most:' .. class, ARGV[3])
    found = true
    break
  elseif redis.call('HGET', nkey(node), 'role') == ARGV[2] then
    redis.call('HSET', nkey(node), 'role_limit', ARGV[3])
    found = true
  end
end
if not found then return answer({'unknown'}) end
emit('run.limited', '', '', 0, ARGV[2] .. '=' .. ARGV[3])
wake()
return answer({'set'})
