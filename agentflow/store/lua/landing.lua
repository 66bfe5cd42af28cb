-- Say that the branch of a finished run moves now, or that it does not. From 'begin' on nobody opens the run again or
-- rolls it back (reopen.lua, undo.lua) until it has landed (close.lua), or whoever lands has given that up.
-- ARGV: 1 run, 2 'begin' | 'give_up', 3 token of whoever lands, 4 state of a run that may land, 5 its result,
--       6 how long others are believed to be at it (ms): whoever gives up later has looked, and they had moved nothing
-- returns: 'noted' | 'superseded', state
local r = redis.call('HMGET', RUN, 'state', 'result', 'landing')
if r[1] ~= ARGV[4] or ARGV[2] == 'begin' and r[2] ~= ARGV[5] then return {'superseded', r[1] or 'unknown'} end
local others = {}
for token, since in string.gmatch(r[3] or '', '(%S+):(%d+)') do
  local is_alive = ARGV[2] == 'begin' or tonumber(since) + tonumber(ARGV[6]) > NOW
  if token ~= ARGV[3] and is_alive then others[#others + 1] = token .. ':' .. since end
end
if ARGV[2] == 'begin' then others[#others + 1] = string.format('%s:%.0f', ARGV[3], NOW) end
if #others > 0 then
  redis.call('HSET', RUN, 'landing', table.concat(others, ' '))
else
  redis.call('HDEL', RUN, 'landing')
end
return {'noted'}
