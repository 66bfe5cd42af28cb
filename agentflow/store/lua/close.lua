-- Close a run or mark a finished one as landed. Its integration closes a run: it has settled, under the fence that
-- the caller names, and nobody has opened the run again or claimed the integration since.
-- ARGV: 1 run, 2 state, 3 states that it may come from, 4 result commit, 5 reason, 6 ttl of its keys (s),
--       7 how long a finished exclusive run keeps what it holds (ms), 8 fence of the integration ('': whichever),
--       9 states in which the integration has ended
-- returns: 'closed' | 'superseded', state; then the answer
local state = redis.call('HGET', RUN, 'state')
if not from(state or '', ARGV[3]) then return answer({'superseded', state or 'unknown'}) end
local last = redis.call('HMGET', nkey('@integrate'), 'state', 'fence')
if ARGV[2] ~= 'landed' and (not from(last[1] or '', ARGV[9]) or ARGV[8] ~= '' and last[2] ~= ARGV[8]) then
  return answer({'superseded', state})
end
redis.call('HSET', RUN, 'state', ARGV[2], 'result', ARGV[4], 'reason', ARGV[5], 'closed_ms', NOW)
redis.call('HDEL', RUN, 'landing')
redis.call('SREM', 'af:open', ARGV[1])
redis.call('ZREM', 'af:short', ARGV[1])
emit(ARGV[2] == 'landed' and 'run.landed' or 'run.finished', '', ARGV[2], 0, ARGV[5], ARGV[4])
local ttl = tonumber(ARGV[6])
redis.call('EXPIRE', RUN, ttl)
for _, name in ipairs(PARTS) do
  redis.call('EXPIRE', part(name), ttl)
end
for _, node in ipairs(cjson.decode(redis.call('HGET', RUN, 'order'))) do redis.call('EXPIRE', nkey(node), ttl) end
if ARGV[2] ~= 'ready_to_land' then
  unbar()
elseif redis.call('HGET', RUN, 'holds') == '1' then
  redis.call('ZADD', 'af:holding', NOW + tonumber(ARGV[7]), ARGV[1])
else
  redis.call('ZREM', project_key('wait'), ARGV[1])  -- nothing of it had to begin
end
wake()
return answer({'closed', ARGV[2]})
