-- Budgets and complexity classes, shared by every script (loaded after pauses.lua).

-- Why the node's budget (its own, its role's, its run's or the day's) does not let it start, '' when it does.
local function over_budget(node, role)
  return ''
end

-- Why the run has no room for one more node of this complexity, '' when it has.
local function class_full(node)
  return ''
end
