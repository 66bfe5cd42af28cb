-- A delayed node whose back-off has passed becomes ready.
-- ARGV: 1 run, 2 node, 3 states that it may come from
-- returns: 'ready' | 'superseded', state; then the answer
local node = ARGV[2]
local state = redis.call('HGET', nkey(node), 'state')
redis.call('ZREM', 'af:delayed', ARGV[1] .. '|' .. node)
if not from(state or '', ARGV[3]) then return answer({'superseded', state or 'unknown'}) end
offer(node)
ready[#ready + 1] = node
emit('node.ready', node, 'ready', redis.call('HGET', nkey(node), 'attempt'))
return answer({'ready', 'ready'})
