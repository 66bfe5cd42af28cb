-- Half-open breakers: what has cooled down is tried. Of a role one parked node, in any run; a run goes on whole.
-- ARGV: 1 '' (no run)
-- returns: 'tried', how many; then the answer (others: what to send)
local tried = 0

-- A trial is one that may still say how it goes.
local function is_on_trial(mark)
  local run, node = string.match(mark or '', '^(.*)|([^|]*)$')
  local state = run and redis.call('HGET', 'af:run:' .. run .. ':node:' .. node, 'state')
  return state == 'ready' or state == 'running' or state == 'delayed'
end

-- What stands still in this run, whatever for: the pause may have met it while it waited for room.
local function standing_still()
  local found = redis.call('ZRANGE', part('parked'), 0, -1)
  for _, node in ipairs(redis.call('ZRANGE', part('waiting'), 0, -1)) do found[#found + 1] = node end
  return found
end

-- Whether nothing but the pause keeps it: looking through a whole run for each node that stands still takes too long.
local function could_go(node, role)
  local n = redis.call('HMGET', nkey(node), 'queue', 'role_limit')
  return full(role, n[2]) == '' and held_back(node, role) == '' and not blocked(node, wants(node))
    and no_room(role, queue_of(n[1], role), false) == ''
end

local function try_one(role)
  for _, run in ipairs(redis.call('SMEMBERS', 'af:open')) do
    turn_to(run)
    if redis.call('HGET', RUN, 'state') == 'open' then
      for _, node in ipairs(standing_still()) do
        if redis.call('HGET', nkey(node), 'role') == role then
          redis.call('HSET', 'af:breakers', 'trial:' .. role, run .. '|' .. node)
          forget_pauses()
          if could_go(node, role) then
            wake()
            if redis.call('HGET', nkey(node), 'state') == 'ready' then
              emit('breaker.trial', node, '', 0, 'role ' .. role .. ': the breaker lets this one through')
              return 1
            end
            break
          end
        end
      end
    end
  end
  return 0
end

local all = redis.call('HGETALL', 'af:breakers')
for i = 1, #all, 2 do
  local role = string.match(all[i], '^open:(.*)$')
  local till = role and tonumber(string.match(all[i + 1], '^(%d+)|'))
  local why = role and redis.call('HGET', 'af:paused', 'role:' .. role)
  if role and not why then
    redis.call('HDEL', 'af:breakers', 'fails:' .. role, 'open:' .. role, 'trial:' .. role)
  elseif role and string.find(why, '^%d+ breaker: ') and till <= NOW
    and not is_on_trial(redis.call('HGET', 'af:breakers', 'trial:' .. role)) then
    tried = tried + try_one(role)
  end
end
for _, run in ipairs(redis.call('HEXISTS', 'af:breakers', 'run') == 1 and redis.call('SMEMBERS', 'af:open') or {}) do
  turn_to(run)
  local r = redis.call('HMGET', RUN, 'breaker_till', 'state', 'reason')
  if r[1] and tonumber(r[1]) <= NOW then
    redis.call('HDEL', RUN, 'breaker_till')
    if r[2] == 'paused' and string.sub(r[3] or '', 1, 9) == 'breaker: ' then
      go_on()
      redis.call('HSET', RUN, 'state', 'open', 'reason', '')
      emit('run.open', '', 'open', 0, 'its breaker has cooled down')
      wake()
      tried = tried + 1
    end
  end
end
turn_to('')
if tried > 0 then wake() end
return answer({'tried', tried})
