import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentflow import graph

DIAMOND = {"a": [], "b": ["a"], "c": ["a"], "d": ["b", "c"]}


@st.composite
def dags(draw, largest=12):
    """Any DAG, its nodes in any order of the mapping."""
    count = draw(st.integers(0, largest))
    names = [f"n{i}" for i in range(count)]
    parents = {}
    for index, name in enumerate(names):
        parents[name] = draw(st.lists(st.sampled_from(names[:index]), unique=True)) if index else []
    return {name: parents[name] for name in draw(st.permutations(names))}


@st.composite
def digraphs(draw):
    names = [f"n{i}" for i in range(draw(st.integers(1, 8)))]
    return {name: draw(st.lists(st.sampled_from(names), unique=True, max_size=3)) for name in names}


def closure(parents):
    """All that comes before each node, by walking from each node anew."""
    found = {}
    for node in parents:
        seen, open_nodes = set(), list(parents[node])
        while open_nodes:
            other = open_nodes.pop()
            if other not in seen:
                seen.add(other)
                open_nodes.extend(parents[other])
        found[node] = frozenset(seen)
    return found


@given(dags())
def test_topological_puts_every_node_after_its_parents(parents):
    order = graph.topological(parents)
    assert sorted(order) == sorted(parents)
    position = {node: i for i, node in enumerate(order)}
    assert all(position[need] < position[node] for node, needs in parents.items() for need in needs)


@given(dags())
def test_topological_takes_the_first_free_node_of_the_mapping(parents):
    left, order = list(parents), []
    while left:
        order.append(next(node for node in left if set(parents[node]) <= set(order)))
        left.remove(order[-1])
    assert graph.topological(parents) == order


def test_topological_keeps_the_order_of_the_mapping_among_free_nodes():
    assert graph.topological({"z": [], "m": ["z"], "a": [], "b": ["a"]}) == ["z", "m", "a", "b"]


@given(dags())
def test_ancestors_are_the_transitive_closure(parents):
    assert graph.ancestors(parents) == closure(parents)


@given(dags())
def test_reduction_keeps_the_order_and_not_one_edge_more_than_it_takes(parents):
    reduced = graph.reduce(parents)
    assert list(reduced) == list(parents)
    assert closure(reduced) == closure(parents)
    for node, needs in reduced.items():
        assert set(needs) <= set(parents[node])
        for need in needs:
            fewer = {**reduced, node: [n for n in needs if n != need]}
            assert closure(fewer) != closure(parents)


def test_reduction_drops_an_edge_that_follows_from_a_longer_way():
    assert graph.reduce({"a": [], "b": ["a"], "c": ["a", "b"]})["c"] == ["b"]


@given(dags())
def test_a_wave_holds_what_only_earlier_waves_hold_back(parents):
    waves = graph.waves(parents)
    assert sorted(itertools.chain(*waves)) == sorted(parents)
    number = {node: i for i, wave in enumerate(waves) for node in wave}
    for node, needs in parents.items():
        assert number[node] == max((number[need] + 1 for need in needs), default=0)


@given(dags(), st.data())
def test_upward_rank_and_critical_path_agree_with_all_ways(parents, data):
    weight = {node: data.draw(st.integers(1, 9)) for node in parents}
    below = graph.children(parents)

    def heaviest(node):
        return weight[node] + max(map(heaviest, below[node]), default=0)

    rank = graph.upward_rank(parents, weight)
    assert rank == {node: heaviest(node) for node in parents}
    path = graph.critical_path(parents, weight)
    assert sum(weight[node] for node in path) == max(rank.values(), default=0)
    assert all(before in parents[after] for before, after in itertools.pairwise(path))


@given(digraphs())
def test_a_cycle_is_found_exactly_when_there_is_one(parents):
    cycle = graph.find_cycle(parents)
    cyclic = any(node in before for node, before in closure(parents).items())
    assert bool(cycle) == cyclic
    if cycle:
        assert cycle[0] == cycle[-1]
        assert len(set(cycle)) == len(cycle) - 1
        assert all(after in parents[before] for before, after in itertools.pairwise(cycle))
        with pytest.raises(graph.CycleError):
            graph.topological(parents)


def test_a_cycle_is_told_as_a_path():
    with pytest.raises(graph.CycleError, match="a -> c -> b -> a") as caught:
        graph.topological({"a": ["c"], "b": ["a"], "c": ["b"], "d": []})
    assert caught.value.path == ["a", "c", "b", "a"]
    assert caught.value.exit_code == 3


def test_a_chain_longer_than_the_stack():
    chain = {str(i): [str(i - 1)] if i else [] for i in range(5000)}
    assert len(graph.waves(chain)) == 5000
    chain["0"] = ["4999"]
    assert len(graph.find_cycle(chain)) == 5001


def test_a_thousand_nodes_with_ninety_thousand_edges():
    layers = [[f"{i}-{j}" for j in range(100)] for i in range(10)]
    parents = {node: layers[i - 1] if i else [] for i, layer in enumerate(layers) for node in layer}
    assert sum(map(len, parents.values())) == 90_000
    assert graph.reduce(parents) == {node: list(needs) for node, needs in parents.items()}
    assert len(graph.waves(parents)) == 10
    assert len(graph.critical_path(parents, dict.fromkeys(parents, 1.0))) == 10


def test_children_are_the_edges_turned_around():
    assert graph.children(DIAMOND) == {"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}
