-- How often a node may come back (loaded after endings.lua, for requeue.lua alone).

-- Caps of what may bring a node back (I9), apart from each other: worker losses in vain (the run can say how
-- many), red attempts (its `retries` end those before), work that did not merge, trouble around the node.
-- A loss is in vain when nothing of the run was settled since the node's last one: a worker that is killed
-- while others go on costs time, a node that takes its worker down again and again gets nothing done.
-- The integration, which runs last and alone, has twice as many. Below three, those are caught that only ran
-- beside the cause: isolation (isolation.lua) begins with the second.
local CAPS = {losses = 5, failures = 100, conflicts = 10, troubles = 20}
local LOSSES_AT_ALL = 4   -- times as many losses as may be in vain
local TOLD = {
  losses = {'AF-POISON-001', 'its worker died %d times while it ran'},
  failures = {'AF-POISON-002', 'it failed %d times'},
  conflicts = {'AF-POISON-003', 'its work did not merge %d times'},
  troubles = {'AF-POISON-004', 'what it needs failed around it %d times'},
}

-- Count what ended an attempt. When that was one too many: code, fix and reason of its quarantine; else false.
local function count(node, counter, cap)
  local times = redis.call('HINCRBY', nkey(node), counter, 1)
  local is_over
  if counter == 'losses' then
    local r = redis.call('HMGET', RUN, 'nodes_left', 'max_losses')
    local vain = redis.call('HGET', nkey(node), 'lost_at') == r[1]
      and redis.call('HINCRBY', nkey(node), 'vain', 1) or 1
    redis.call('HSET', nkey(node), 'lost_at', r[1] or '', 'vain', vain)
    note_suspect(vain)
    local most = tonumber(r[2] or 0) > 0 and tonumber(r[2]) or CAPS.losses
    most = cap or redis.call('HGET', nkey(node), 'tolerant') == '1' and 2 * most or most
    is_over = vain >= most or times >= most * LOSSES_AT_ALL
  else
    is_over = times >= (cap or CAPS[counter])
  end
  return is_over and {TOLD[counter][1], 'look at its logs; `agentflow retry ' .. RUN_ID .. ' ' .. node .. '` does it again',
    string.format(TOLD[counter][2], times)}
end
