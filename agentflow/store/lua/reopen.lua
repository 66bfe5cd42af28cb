-- Open a closed run again: what did not succeed is pending (or ready) once more, as a new generation.
-- ARGV: 1 run, 2 states of a run that may be reopened, 3 commit to integrate on ('': the base)
-- returns: 'reopened' | 'superseded', state (of one that lands just now: ready_to_land); then the answer (ready: what
--          to send)
local state = redis.call('HGET', RUN, 'state')
if redis.call('HEXISTS', RUN, 'landing') == 1 then return answer({'superseded', state}) end
if not from(state or '', ARGV[2]) then return answer({'superseded', state or 'unknown'}) end
local order = cjson.decode(redis.call('HGET', RUN, 'order'))
open_again(ARGV[3])
redis.call('HINCRBY', RUN, 'generation', 1)
local again, left = {}, 0
for _, node in ipairs(order) do
  -- On a moved target only the integration is done again: what an optional node failed at stays so.
  local unfinished = ARGV[3] == '' and redis.call('HGET', nkey(node), 'state') ~= 'succeeded'
  if unfinished or redis.call('HGET', nkey(node), 'tolerant') == '1' then
    again[node] = true
    left = left + 1
  end
end
for _, node in ipairs(order) do
  if again[node] then
    local waits = 0
    for _, parent in ipairs(cjson.decode(redis.call('HGET', nkey(node), 'parents'))) do
      if again[parent] then waits = waits + 1 end
    end
    start_over(node, waits)
    if waits == 0 and (left == 1 or redis.call('HGET', nkey(node), 'tolerant') ~= '1') then
      offer(node)
      ready[#ready + 1] = node
    end
  end
end
redis.call('HSET', RUN, 'nodes_left', left)
emit('run.reopened', '', 'open')
return answer({'reopened', 'open'})
