"""What the ledger promises, and that breaking a script on purpose turns the story of that promise red."""

from __future__ import annotations

import pytest
from helpers.broken_scripts import broken
from helpers.late_promises import PROMISES

from agentflow.store.ledger import Ledger

#: What is broken, its text in the scripts, what is put in its place, and the promise that must notice.
BREAKS = [
    (
        "settle asks for no fence",
        "if n[2] ~= fence or not from(n[1] or '', ARGV[5]) then",
        "if not from(n[1] or '', ARGV[5]) then",
        "an_old_fence_settles_nothing",
    ),
    (
        "settle asks for no state",
        "if n[2] ~= fence or not from(n[1] or '', ARGV[5]) then",
        "if n[2] ~= fence then",
        "a_node_ends_once",
    ),
    (
        "requeue asks for no fence",
        "if n[2] ~= fence or not from(n[1] or '', ARGV[4]) then",
        "if not from(n[1] or '', ARGV[4]) then",
        "an_old_fence_gives_nothing_back",
    ),
    (
        "renew asks for no fence",
        "if n[1] ~= 'running' or n[2] ~= fence then",
        "if n[1] ~= 'running' then",
        "an_old_fence_renews_nothing",
    ),
    (
        "claim asks for no state",
        "if not from(state, ARGV[5]) then return answer({'refused', state, '', '', ''}) end",
        "",
        "nothing_starts_before_its_parents",
    ),
    (
        "claim takes what runs",
        "if not from(state, ARGV[5]) then",
        "if state ~= 'running' and not from(state, ARGV[5]) then",
        "a_node_is_claimed_once",
    ),
    ("one parent is enough", "elseif left == 0 then", "else", "nothing_starts_before_its_parents"),
    (
        "a failure is harmless",
        "local harmless = state == 'succeeded' or n[2] == '1'",
        "local harmless = true",
        "what_needed_a_failure_is_skipped",
    ),
    (
        "a lock is released early",
        "acquire(part('locks'), node, mine)",
        "acquire(part('locks'), node, mine); release(part('locks'), node, mine)",
        "a_lock_is_held_until_its_node_ends",
    ),
    (
        "locks are not asked for",
        "if not aside then other, path = blocked(node, mine, true) end",
        "",
        "a_lock_is_held_until_its_node_ends",
    ),
    (
        "locks below a path do not count",
        "if below > 0 then return named",
        "if false then return named",
        "a_lock_is_held_until_its_node_ends",
    ),
    (
        "locks are never released",
        "release(part('locks'), node, wants(node))",
        "",
        "a_lost_attempt_gives_its_locks_back",
    ),
    (
        "earlier waiters are passed",
        "if path and counts(theirs) then return other, path end",
        "",
        "who_waits_longest_for_a_lock_has_it_first",
    ),
    (
        "the sequence is not asked for",
        "if seq ~= ARGV[9] then return answer({'moved', seq}) end",
        "",
        "work_on_top_of_what_moved_is_merged_again",
    ),
    (
        "optimistic work asks for no lock",
        "if holder then return answer({'locked', 'lock: ' .. path .. ' is held for ' .. holder}) end",
        "",
        "work_on_a_locked_path_waits",
    ),
    (
        "the limit of a run is off by one",
        "tonumber(r[2] or 0) + (more or 0) >= most then",
        "tonumber(r[2] or 0) + (more or 0) > most then",
        "a_run_keeps_to_its_limit",
    ),
    (
        "the limit of the fleet is not asked for",
        "if free <= 0 then return 'fleet limit: '",
        "if false then return 'fleet limit: '",
        "the_fleet_keeps_to_its_limit",
    ),
    (
        "a woken node does not take its room",
        "emit('node.woken', node, 'ready', attempt)",
        "enter(role, queue, -1); emit('node.woken', node, 'ready', attempt)",
        "a_woken_node_keeps_its_room",
    ),
    (
        "an exclusive run asks nobody",
        "if holder then return holder, path, 'is held by' end",
        "",
        "exclusive_runs_never_overlap",
    ),
    (
        "what waits survives a cancel",
        "if state == 'cancelling' then cancel_waiting('the run was cancelled') end",
        "",
        "a_cancelled_run_starts_nothing",
    ),
    (
        "a run that is not open starts its nodes",
        "if run_state ~= 'open' then\n    reason",
        "if false then\n    reason",
        "a_drained_run_starts_nothing",
    ),
    (
        "losses are not counted",
        "local given_up = counter ~= '' and count(node, counter, tonumber(ARGV[10]))",
        "local given_up = false",
        "a_node_whose_workers_keep_dying_is_given_up",
    ),
    (
        "a closed run is closed again",
        "if not from(state or '', ARGV[3]) then return answer({'superseded', state or 'unknown'}) end",
        "",
        "a_run_is_closed_once",
    ),
    (
        "nodes of a closed run stay for ever",
        "redis.call('EXPIRE', nkey(node), ttl)",
        "",
        "a_closed_run_leaves_nothing_for_ever",
    ),
    (
        "a lease outlives its attempt",
        "redis.call('ZREM', 'af:leases', RUN_ID .. '|' .. node .. '|' .. fence)",
        "",
        "a_lock_is_held_until_its_node_ends",
    ),
    (
        "the integration does not wait for a skipped line's neighbours",
        "if redis.call('SCARD', part('open')) == 1 then",
        "offer('@integrate')\n  if false then",
        "the_integration_waits_for_everybody",
    ),
    (
        "what becomes ready is not written down",
        "redis.call('ZADD', part('ready'), NOW, node)",
        "",
        "what_is_ready_is_known_to_the_reconciler",
    ),
    (
        "a call is charged twice",
        "redis.call('HDEL', part('budget'), 'hold:' .. name)\n  add(where, 'held', minus(reserved))",
        "add(where, 'held', minus(reserved))",
        "a_call_is_charged_once",
    ),
    (
        "a reservation is never refused",
        "if limit and spent + held + want[unit] > limit and",
        "if false and",
        "nobody_reserves_more_than_is_left",
    ),
    (
        "what is reserved is not counted",
        "add(where, 'held', amount)\nredis.call",
        "redis.call",
        "nobody_reserves_more_than_is_left",
    ),
    (
        "reserve asks for no fence",
        "if n[1] ~= 'running' or n[2] ~= fence then return {'superseded'",
        "if n[1] ~= 'running' then return {'superseded'",
        "an_old_fence_reserves_nothing",
    ),
    (
        "the first budget without room is told",
        "if is_spent then return purse, text, true end",
        "if true then return purse, text, is_spent end",
        "nobody_waits_for_calls_under_way_in_vain",
    ),
    (
        "a lost attempt keeps its reservations",
        "add(where, 'held', minus(amount))",
        "",
        "a_lost_attempt_gives_its_reservation_back",
    ),
    (
        "a running attempt is given what another holds",
        "local function conflict(where, who, asked, held, named)",
        "local function conflict(where, who, asked, held, named) if RUN_ID then return nil end",
        "a_running_attempt_is_given_no_lock_that_another_holds",
    ),
    (
        "any integration closes the run",
        "ARGV[8] ~= '' and last[2] ~= ARGV[8]",
        "false",
        "only_the_integration_that_settled_closes_its_run",
    ),
    (
        "a call that is asked for again is counted again",
        "if w.counted and redis.call('ZADD', w.key .. ':log', 'NX', NOW, pass) == 1 then",
        "redis.call('ZADD', w.key .. ':log', 'NX', NOW, pass)\n    if w.counted then",
        "a_call_whose_answer_was_lost_is_counted_once",
    ),
    (
        "a call waits for itself",
        "if has_pass() then return grant(tokens) end",
        "",
        "a_call_whose_answer_was_lost_is_counted_once",
    ),
    (
        "a call is reserved twice",
        "if redis.call('HEXISTS', part('budget'), name) == 1 then return {'reserved'} end",
        "",
        "a_call_is_reserved_once",
    ),
    (
        "due asks for no state",
        "ARGV[1] .. '|' .. node)\nif not from(state or '', ARGV[3]) then",
        "ARGV[1] .. '|' .. node)\nif false then",
        "who_comes_due_twice_begins_once",
    ),
    (
        "losses that are not in vain are not capped",
        "is_over = vain >= most or times >= most * LOSSES_AT_ALL",
        "is_over = vain >= most",
        "a_node_that_is_lost_without_end_is_given_up_also_while_others_go_on",
    ),
    (
        "a lost attempt keeps its fence",
        "redis.call('HINCRBY', nkey(node), 'fence', 1)\nlocal given_up",
        "local given_up",
        "a_lost_integration_closes_nothing",
    ),
    (
        "the generation of an older ledger stays",
        "redis.call('HSET', RUN, 'generation', ARGV[3])",
        "",
        "an_older_ledger_goes_on_in_the_newest_generation",
    ),
    (
        "the generation of a newer ledger goes back",
        "if tonumber(redis.call('HGET', RUN, 'generation') or 1) < tonumber(ARGV[3]) then",
        "if true then",
        "an_older_ledger_goes_on_in_the_newest_generation",
    ),
    (
        "a cancelled run's attempts are given locks",
        "if redis.call('HGET', RUN, 'state') == 'cancelling' then return answer({'refused'",
        "if false then return answer({'refused'",
        "an_attempt_of_a_cancelled_run_is_given_no_lock",
    ),
    (
        "the integration is cancelled with its run",
        "elseif n[3] ~= '1' and redis.call(",
        "elseif redis.call(",
        "the_integration_of_a_cancelled_run_goes_on",
    ),
    (
        "a queue timeout runs during a pause",
        "and from(n[1], ARGV[2]) and paused(n[4]) == '' then",
        "and from(n[1], ARGV[2]) then",
        "a_pause_is_not_held_against_what_waits",
    ),
    (
        "a queue timeout counts the pause that is over",
        "if redis.call('HEXISTS', RUN, 'state') == 1 then redis.call('HSET', RUN, 'went_on_ms', NOW) end",
        "",
        "a_pause_is_not_held_against_what_waits",
    ),
    (
        "who is held back stays in line",
        "aside = step_out(node) or aside",
        "",
        "who_is_held_back_leaves_the_line_for_its_locks",
    ),
    (
        "who leaves the line is still waited for",
        "release(part('wanted'), node, wants(node))",
        "",
        "who_is_held_back_leaves_the_line_for_its_locks",
    ),
    (
        "a younger limit is not asked for",
        "if not guarded('b') then redis.call('HSET', RUN, 'guards', guards[RUN_ID] .. 'b') end",
        "",
        "a_limit_that_is_younger_than_its_run_holds_it_back",
    ),
    (
        "two lead at once",
        "if holder and holder ~= ARGV[2] then return {0} end",
        "",
        "one_leads_at_a_time",
    ),
    (
        "anybody gives the lead up",
        "if holder ~= ARGV[2] and string.sub(holder, 1, #ARGV[2] + 1) ~= ARGV[2] .. '|' then return {0} end",
        "",
        "one_leads_at_a_time",
    ),
]


@pytest.mark.parametrize("name", PROMISES)
def test_a_promise_is_kept(redis_client, name):
    PROMISES[name](Ledger(redis_client))


@pytest.mark.breaks_store("its scripts are broken")
@pytest.mark.parametrize(("old", "new", "name"), [b[1:] for b in BREAKS], ids=[b[0] for b in BREAKS])
def test_a_broken_script_breaks_a_promise(redis_client, old, new, name):
    with broken(old, new), pytest.raises(AssertionError):
        PROMISES[name](Ledger(redis_client))


def test_each_promise_has_somebody_who_breaks_it():
    assert {broken_one[3] for broken_one in BREAKS} == set(PROMISES)
