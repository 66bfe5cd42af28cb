-- What an operator or a breaker has paused, shared by every script (loaded after room.lua).

-- Why nothing of this role may start now, '' when it may.
local function paused(role)
  return ''
end
