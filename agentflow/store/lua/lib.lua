-- Shared by every script (the loader puts this text before each).
-- ARGV[1] is always the run id; keys of a run are built from it (no cluster, see keys.py).
local RUN = 'af:run:' .. ARGV[1]
local function part(name) return RUN .. ':' .. name end
local function nkey(node) return RUN .. ':node:' .. node end
local T = redis.call('TIME')
local NOW = T[1] * 1000 + math.floor(T[2] / 1000)
local ready, woken, ended = {}, {}, {}   -- what a script hands back to be sent or to arrive

local function emit(kind, node, state, attempt, reason, detail)
  local fields = {'kind', kind, 'at', NOW, 'node', node or '', 'state', state or '',
    'attempt', attempt or 0, 'reason', string.sub(reason or '', 1, 600), 'detail', detail or ''}
  redis.call('XADD', part('events'), 'MAXLEN', '~', 100000, '*', unpack(fields))
  fields[#fields + 1] = 'run'
  fields[#fields + 1] = ARGV[1]
  redis.call('XADD', 'af:events', 'MAXLEN', '~', 10000, '*', unpack(fields))
end

local function from(state, allowed)
  for s in string.gmatch(allowed, '[^,]+') do
    if s == state then return true end
  end
  return false
end

