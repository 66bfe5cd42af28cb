-- Close a run (by the holder of the integration's fence) or mark a finished one as landed.
-- ARGV: 1 run, 2 state, 3 states that it may come from, 4 result commit, 5 reason, 6 ttl of its keys (s),
--       7 how long a finished exclusive run keeps what it holds (ms)
-- returns: 'closed' | 'superseded', state; then the answer
local state = redis.call('HGET', RUN, 'state')
if not from(state or '', ARGV[3]) then return answer({'superseded', state or 'unknown'}) end
redis.call('HSET', RUN, 'state', ARGV[2], 'result', ARGV[4], 'reason', ARGV[5], 'closed_ms', NOW)
redis.call('SREM', 'af:open', ARGV[1])
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
end
wake()
return answer({'closed', ARGV[2]})
