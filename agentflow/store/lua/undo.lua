-- Roll a closed run back: what some nodes have settled no longer counts.
-- ARGV: 1 run, 2 states that the run may come from, 3 its state then ('': as it is), 4 reason,
--       5 nodes whose work is undone (lines), 6 the rest that has settled, oldest first:
--       JSON list of {node, paths (lines)}, 7 ttl of its keys (s)
-- returns: 'undone' | 'superseded', state (of one that lands just now: ready_to_land); then the answer
local state = redis.call('HGET', RUN, 'state')
if redis.call('HEXISTS', RUN, 'landing') == 1 then return answer({'superseded', state}) end
if not from(state or '', ARGV[2]) then return answer({'superseded', state or 'unknown'}) end
for _, node in ipairs(lines(ARGV[5])) do
  local n = redis.call('HMGET', nkey(node), 'state', 'fence', 'attempt')
  if n[1] == 'succeeded' then
    -- `undone`: a journal that knows this settlement only must not bring it back.
    redis.call('HSET', nkey(node), 'state', 'cancelled', 'reason', 'rolled back', 'undone', n[2] or 0, 'commit', '',
      'base', '', 'summary', '', 'verdict', '', 'pending_commit', '', 'closing', '', 'result', '', 'edges', '[]')
    redis.call('HDEL', nkey(node), 'findings', 'tests', 'reused')
    redis.call('HINCRBY', nkey(node), 'fence', 1)
    redis.call('HDEL', part('texts'), node)
    emit('node.undone', node, 'cancelled', n[3], ARGV[4])
  end
end
-- Who wrote a path last is found again among those that are left.
redis.call('DEL', part('writers'), part('settled'))
for _, one in ipairs(cjson.decode(ARGV[6])) do wrote(one.node, lines(one.paths)) end
for _, name in ipairs(PARTS) do redis.call('EXPIRE', part(name), ARGV[7]) end
redis.call('HSET', RUN, 'result', '', 'onto', '', 'branch', '', 'reason', ARGV[4])
if ARGV[3] ~= '' then
  redis.call('HSET', RUN, 'state', ARGV[3])
  state = ARGV[3]
  unbar()
end
emit('run.undone', '', state, 0, ARGV[4])
wake()
return answer({'undone', state})
