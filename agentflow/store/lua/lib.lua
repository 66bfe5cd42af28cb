-- Shared by every script (the loader puts this text before each).
-- ARGV[1] is always the run id; keys of a run are built from it (no cluster, see keys.py).
local RUN_ID = ARGV[1]
local RUN = 'af:run:' .. RUN_ID
local function part(name) return RUN .. ':' .. name end
-- Everything that a run has besides its hash and its nodes (the same list as in keys.py).
local PARTS = {'plan', 'open', 'ready', 'parked', 'waiting', 'waits', 'lockwait', 'wanted', 'locks', 'writers', 'roles',
  'settled', 'texts', 'events', 'budget', 'classes'}
local function nkey(node) return RUN .. ':node:' .. node end
local T = clock()
local NOW = T[1] * 1000 + math.floor(T[2] / 1000)
-- What a script hands back to be sent or to arrive; `others` as run|node.
local ready, woken, ended, others = {}, {}, {}, {}

-- From here on the functions below speak of another run.
local function turn_to(run)
  RUN_ID = run
  RUN = 'af:run:' .. run
end

-- At most `most` bytes of a text, never half a character (the byte after the cut begins one).
local function cut(text, most)
  if #text <= most then return text end
  while most > 0 and string.byte(text, most + 1) >= 128 and string.byte(text, most + 1) < 192 do most = most - 1 end
  return string.sub(text, 1, most)
end

local function emit(kind, node, state, attempt, reason, detail)
  reason = cut(reason or '', 600)
  local fields = {'kind', kind, 'at', NOW, 'node', node or '', 'state', state or '',
    'attempt', attempt or 0, 'reason', reason, 'detail', detail or ''}
  redis.call('XADD', part('events'), 'MAXLEN', '~', 100000, '*', unpack(fields))
  fields[#fields + 1] = 'run'
  fields[#fields + 1] = RUN_ID
  redis.call('XADD', 'af:events', 'MAXLEN', '~', 10000, '*', unpack(fields))
  -- The same as a plain list, newest first, for whoever asks with LRANGE (keys.py: SYSTEM_EVENTS_MAX).
  redis.call('LPUSH', 'system_events', cjson.encode({at = NOW, kind = kind, run = RUN_ID, node = node or '',
    state = state or '', attempt = tonumber(attempt) or 0, reason = reason}))
  redis.call('LTRIM', 'system_events', 0, 999)
end

local function from(state, allowed)
  for s in string.gmatch(allowed, '[^,]+') do
    if s == state then return true end
  end
  return false
end

