-- Nodes whose worker died more than once in vain run alone, shared by every script (loaded after budget.lua).
-- A worker takes all of its attempts down with it, and one of them may be the cause. Whoever was lost SUSPECT
-- times in a row begins while no other such node does: then the next death tells them apart, and only the cause
-- comes to its cap (caps.lua). Nobody waits for longer than a minute for one of these, or four times as long as
-- before after each further loss: whatever takes a worker down mostly does so at once, and agents work for hours.
-- `guards` of a run has an `s` when it has such nodes; `af:suspect` names the one that has begun, with its token,
-- so that nothing has to be given back.
local SUSPECT, APART_MS, APART_MOST_MS = 2, 60000, 3600000

-- How often a suspect was lost in a row; nil for any other node.
local function suspicion(node)
  local vain = guarded('s') and tonumber(redis.call('HGET', nkey(node), 'vain') or 0)
  return vain and vain >= SUSPECT and vain or nil
end

-- Why a suspect may not start now, '' when it may (or is none).
local function kept_apart(node)
  if not suspicion(node) then return '' end
  local run, other, fence = string.match(redis.call('GET', 'af:suspect') or '', '^([^|]*)|(.*)|(%d+)$')
  if not run then return '' end
  local o = redis.call('HMGET', 'af:run:' .. run .. ':node:' .. other, 'state', 'fence')
  if o[1] ~= 'running' or o[2] ~= fence then return '' end
  return 'isolation: its worker died more than once; it starts after ' .. other .. ' of run ' .. run
    .. ', of which that is true too'
end

-- The node runs from now on under this token.
local function set_apart(node, fence)
  local vain = suspicion(node)
  if vain then
    local apart = math.min(APART_MOST_MS, APART_MS * 4 ^ (vain - SUSPECT))
    redis.call('SET', 'af:suspect', string.format('%s|%s|%.0f', RUN_ID, node, fence), 'PX', string.format('%.0f', apart))
  end
end

-- An attempt that began alone has ended; `wake` lets those of other runs go on that waited for it (nodes.lua).
local suspect_ended = false
local function end_apart(node, fence, vain)
  if tonumber(vain or 0) < SUSPECT or redis.call('GET', 'af:suspect') ~= RUN_ID .. '|' .. node .. '|' .. fence then
    return
  end
  redis.call('DEL', 'af:suspect')
  suspect_ended = true
end

local function note_suspect(vain)
  if vain >= SUSPECT and not guarded('s') then
    guards[RUN_ID] = guards[RUN_ID] .. 's'
    redis.call('HSET', RUN, 'guards', guards[RUN_ID])
  end
end
