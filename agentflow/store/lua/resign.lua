-- Give the lead up, when it is the caller's.
-- ARGV: 1 '' (no run), 2 name as it leads, or as it was before its process' own mark
-- returns: 1 when it was the caller's, else 0
local holder = redis.call('GET', 'af:leader') or ''
if holder ~= ARGV[2] and string.sub(holder, 1, #ARGV[2] + 1) ~= ARGV[2] .. '|' then return {0} end
redis.call('DEL', 'af:leader')
return {1}
