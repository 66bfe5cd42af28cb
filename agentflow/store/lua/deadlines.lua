-- End what has waited or taken too long: nodes by their queue timeout, the run by its own. Anybody may ask.
-- ARGV: 1 run, 2 states from which a node that waits may fail
-- returns: 'passed' | 'none'; then the answer
local r = redis.call('HMGET', RUN, 'state', 'timeout_ms', 'since_ms', 'queue_timeouts', 'went_on_ms', 'opened_ms')
if r[1] ~= 'open' then return answer({'none'}) end
local most = tonumber(r[2] or 0)
if most > 0 and NOW - tonumber(r[3] or NOW) > most then
  local why = string.format("the run's timeout of %g s passed", most / 1000)
  redis.call('HSET', RUN, 'state', 'cancelling', 'reason', why)
  emit('run.cancelling', '', 'cancelling', 0, why)
  cancel_waiting(why)
  wake()
  return answer({'passed'})
end
if r[4] ~= '1' then return answer({'none'}) end

local late, went_on = {}, math.max(tonumber(r[5] or 0), tonumber(r[6] or 0))
for _, name in ipairs({'ready', 'parked', 'waiting'}) do
  for _, node in ipairs(redis.call('ZRANGE', part(name), 0, -1)) do
    local n = redis.call('HMGET', nkey(node), 'state', 'queue_ms', 'queued_ms', 'role', 'reason')
    local patience = tonumber(n[2] or 0)
    local since = math.max(tonumber(n[3] or 0), went_on)
    if patience > 0 and NOW - since > patience and from(n[1], ARGV[2]) and paused(n[4]) == '' then
      late[#late + 1] = {node, string.format('queue timeout: it waited %.1f s and its queue_timeout is %g s; ',
        (NOW - since) / 1000, patience / 1000) .. ((n[5] or '') ~= '' and n[5] or 'no worker took it')}
    end
  end
end
for _, one in ipairs(late) do
  -- An earlier one may have ended it: `on_failure: stop`.
  if redis.call('SISMEMBER', part('open'), one[1]) == 1 then
    forget(one[1])
    redis.call('HSET', nkey(one[1]), 'code', 'AF-QUEUE-001', 'fix', 'more slots or a longer queue_timeout; `agentflow retry '
      .. RUN_ID .. ' ' .. one[1] .. '` does it again')
    fail(one[1], one[2])
  end
end
if #late > 0 then wake() end
return answer({#late > 0 and 'passed' or 'none'})
