"""Generated tasks against definitions written the slow way, and what their base promises: exact positions, disjoint sets, known levels."""

import itertools
import math
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch

from resbench.architectures.registry import available
from resbench.tasks.depth.dyck import Dyck
from resbench.tasks.depth.generated import HELD_OUT_OF, IGNORED, GeneratedTask, draw, held_out, octave
from resbench.tasks.depth.mqar import AssociativeRecall
from resbench.tasks.depth.noisy_recall import NoisyRecall
from resbench.tasks.depth.p_hop import PHop, hop
from resbench.tasks.depth.selective_copy import SelectiveCopy
from resbench.tasks.depth.word_problem import WordProblem, elements, multiplication_table

SMALL: dict[str, dict[str, Any]] = {"context_length": 48, "batch_size": 24, "val_sequences": 100}
TASKS: list[GeneratedTask] = [
    PHop(**SMALL),
    WordProblem(**SMALL),
    WordProblem(group="A5", **SMALL),
    Dyck(**SMALL),
    AssociativeRecall(**SMALL, vocabulary=64),
    SelectiveCopy(**SMALL),
    NoisyRecall(**SMALL),
]
ALL = pytest.mark.parametrize("task", TASKS, ids=lambda task: f"{task.name}-{getattr(task, 'group', '')}")


def examples(task: GeneratedTask, count: int = 200) -> Any:
    return task.generate(np.random.default_rng(5), count)


# The definitions, one sequence and one position at a time.


def test_p_hop_is_the_papers_definition() -> None:
    task = PHop(hops=[1, 2, 3, 5], alphabet=3, **SMALL)
    found = examples(task)
    for tokens, targets in zip(found.tokens.tolist(), found.targets.tolist(), strict=True):
        k, letters = tokens[0] - (3 - 1), [None, *tokens[1:]]  # X_1 .. X_N, as the paper counts
        assert targets[0] == IGNORED
        for i in range(1, len(letters)):
            at = i
            for _ in range(k):
                at = max([j for j in range(2, at + 1) if letters[j - 1] == letters[at]], default=0) if at else 0
            assert targets[i] == (letters[at] if at else IGNORED)


def test_hopping_by_hand() -> None:
    # a b a c a: at the last a one hop leads to the c after the previous a; c occurred never before, so two hops lead nowhere.
    letters = np.array([[0, 1, 0, 2, 0]])
    assert hop(letters, np.array([1]), 3).tolist() == [[IGNORED, IGNORED, 1, IGNORED, 2]]
    assert hop(letters, np.array([2]), 3).tolist() == [[IGNORED, IGNORED, IGNORED, IGNORED, IGNORED]]
    # a a a: every a points to the letter after the a before it, that is, to itself. Sequences of the task have no such letters.
    assert hop(np.array([[0, 0, 0]]), np.array([3]), 2).tolist() == [[IGNORED, 0, 0]]
    letters = examples(PHop(**SMALL)).tokens[:, 1:]
    assert (letters[:, 1:] != letters[:, :-1]).all()
    assert np.bincount(letters.flatten()).max() < 1.15 * letters.size / 8


def test_chance_of_one_hop_is_one_of_the_other_letters_and_of_two_is_more() -> None:
    """After one hop the letter follows the present one somewhere, so it is another; two hops return more often than 1 in 8."""
    one, two, many = (PHop(hops=[k], context_length=200).chance for k in (1, 2, 8))
    assert one == pytest.approx(1 / 7, abs=0.002)
    assert two > 0.2
    assert many == pytest.approx(1 / 8, abs=0.01)


def test_chance_of_recall_is_above_one_of_the_values() -> None:
    """The first key asked for again while it is the only one shown has the only value shown."""
    assert 1 / 8 < NoisyRecall(**SMALL).chance < 0.5
    assert NoisyRecall(keys=1, **SMALL).chance == 1.0  # nothing else to name


@pytest.mark.parametrize(("group", "order"), [("S5", math.factorial(5)), ("A5", math.factorial(5) // 2)])
def test_the_group_is_that_group(group: Any, order: int) -> None:
    table, members = multiplication_table(group), elements(group)
    assert table.shape == (order, order)
    assert members[0].tolist() == [0, 1, 2, 3, 4]
    assert (table[0] == np.arange(order)).all()
    assert (np.sort(table, axis=0) == np.arange(order)[:, None]).all()  # a Latin square
    rng = np.random.default_rng(0)
    a, b, c = rng.integers(order, size=(3, 500))
    assert (table[table[a, b], c] == table[a, table[b, c]]).all()
    assert any(table[x, y] != table[y, x] for x, y in itertools.product(range(1, 10), repeat=2))


def test_products_of_permutations() -> None:
    task = WordProblem(group="A5", **SMALL)
    members, found = elements("A5"), examples(task, 20)
    for tokens, targets in zip(found.tokens, found.targets, strict=True):
        product = np.arange(5)
        for token, target in zip(tokens, targets, strict=True):
            product = members[token][product]
            assert (members[target] == product).all()
    assert found.difficulty[0, :9].tolist() == [1, 2, 4, 4, 8, 8, 8, 8, 16]


def test_brackets_are_nested_and_no_deeper_than_said() -> None:
    task = Dyck(kinds=3, max_depth=4, **SMALL)
    found = examples(task)
    deepest = 0
    for tokens, targets, difficulty in zip(*(part.tolist() for part in found), strict=True):
        stack: list[int] = []
        for token, target, depth in zip(tokens, targets, difficulty, strict=True):
            if token % 2 == 0:
                stack.append(token // 2)
                assert target == IGNORED
            else:
                assert stack.pop() == token // 2
                assert target == (2 * stack[-1] + 1 if stack else IGNORED)
            assert depth == len(stack)
            deepest = max(deepest, depth)
    assert deepest == 4


def test_every_key_is_asked_for_once_and_its_value_is_the_answer() -> None:
    task = AssociativeRecall(pairs=[2, 7], vocabulary=40, **SMALL)
    found = examples(task)
    assert set(found.difficulty[:, 0].tolist()) == {2, 7}
    for tokens, targets, difficulty in zip(*(part.tolist() for part in found), strict=True):
        n = difficulty[0]
        shown = dict(zip(tokens[0 : 2 * n : 2], tokens[1 : 2 * n : 2], strict=True))
        assert len(shown) == n
        assert len(set(shown.values())) == n
        assert max(shown) < 20 <= min(shown.values())
        asked = [token for token in tokens[2 * n :] if token]
        assert sorted(asked) == sorted(shown)
        assert targets == [IGNORED] * (2 * n) + [shown.get(token, IGNORED) for token in tokens[2 * n :]]


def test_questions_come_early_unless_told_otherwise() -> None:
    early, even = (
        np.nonzero(examples(AssociativeRecall(pairs=[4], vocabulary=40, power=power, **SMALL)).targets >= 0)[1].mean()
        for power in (0.01, 1.0)
    )
    assert early < even - 5
    assert even == pytest.approx((8 + 47) / 2, abs=1.5)  # spread evenly over positions 8..47


def test_letters_are_copied_in_order() -> None:
    found = examples(SelectiveCopy(copies=[3, 10], **SMALL))
    for tokens, targets, difficulty in zip(*(part.tolist() for part in found), strict=True):
        n = difficulty[0]
        assert tokens[-n:] == [1] * n
        letters = [token for token in tokens[:-n] if token]
        assert min(letters) >= 2
        assert targets == [IGNORED] * (48 - n) + letters


def test_a_key_shown_before_has_the_value_it_had() -> None:
    task = NoisyRecall(keys=5, values=4, noise_tokens=6, noise=0.4, **SMALL)
    found = examples(task)
    noise = 0
    for tokens, targets, difficulty in zip(*(part.tolist() for part in found), strict=True):
        seen: dict[int, tuple[int, int]] = {}
        t = 0
        while t < 48:
            if tokens[t] >= 9:
                noise += 1
                assert targets[t] == IGNORED
                t += 1
                continue
            key = tokens[t]
            assert key < 5
            if key in seen:
                value, at = seen[key]
                assert targets[t] == value
                assert difficulty[t] == octave(np.array(t - at))
            else:
                assert targets[t] == IGNORED
            if t + 1 < 48:
                assert 5 <= tokens[t + 1] < 9
                assert targets[t + 1] == IGNORED
                assert key not in seen or seen[key][0] == tokens[t + 1]
                seen[key] = (tokens[t + 1], t)
            t += 2
    # Before each pair a geometric number of noise tokens with mean p / (1 - p) = 2/3: a share of (2/3) / (2/3 + 2) = 1/4.
    assert noise / found.tokens.size == pytest.approx(0.25, abs=0.02)


# What all of them promise.


@ALL
def test_tokens_and_targets_are_in_the_vocabulary(task: GeneratedTask) -> None:
    found = examples(task)
    assert found.tokens.min() >= 0
    assert found.tokens.max() < task.vocab_size
    scored = found.targets[found.targets != IGNORED]
    assert len(scored) > 200
    assert scored.min() >= 0
    assert scored.max() < task.vocab_size


@ALL
def test_guessing_reaches_chance_and_knowing_reaches_the_ceiling(task: GeneratedTask) -> None:
    """A guesser that names a random one of the answers a sequence has room for, and one that knows the target."""
    found = examples(task, 3000)
    scored = found.targets != IGNORED
    rng = np.random.default_rng(1)
    if isinstance(task, AssociativeRecall):  # the best guesser knows which values are in the sequence
        guess = np.take_along_axis(found.tokens, 2 * rng.integers(found.difficulty) + 1, axis=1)
    elif isinstance(task, NoisyRecall):  # it names the commonest value so far
        shown = np.stack([np.cumsum(found.tokens == value, axis=1) for value in range(8, 16)], axis=-1)
        guess = 8 + shown.argmax(-1)
    elif isinstance(task, PHop):  # it knows the present letter and the number of hops
        other = (found.tokens + rng.integers(1, 8, size=found.tokens.shape)) % 8
        guess = np.where(found.difficulty == 2, found.tokens, other)
    else:
        answers = np.unique(found.targets[scored])
        counts = np.array([(found.targets[scored] == answer).mean() for answer in answers])
        assert counts.max() < 1.25 * task.chance + 0.01  # no answer is much likelier than the others
        guess = rng.choice(answers, size=found.targets.shape)
    n = scored.sum()
    sd = math.sqrt(task.chance * (1 - task.chance) / n)
    # Scored positions of one sequence share an answer at times, which widens the spread: hence six deviations.
    assert (guess == found.targets)[scored].mean() == pytest.approx(task.chance, abs=6 * sd + 0.01)
    logits = torch.nn.functional.one_hot(torch.from_numpy(np.maximum(found.targets, 0)), task.vocab_size).float()
    batch = {"targets": torch.from_numpy(found.targets), "difficulty": torch.from_numpy(found.difficulty)}
    measures = task.measures(logits, batch)
    assert {name: float(total / count) for name, (total, count) in measures.items()} == dict.fromkeys(
        measures, task.ceiling
    )
    assert task.levels() == {"chance_accuracy": task.chance, "ceiling_accuracy": 1.0}


@ALL
def test_difficulties_partition_the_scored_targets(task: GeneratedTask) -> None:
    batch = next(iter(task.val_dataloader()))
    logits = torch.randn(*batch["tokens"].shape, task.vocab_size, generator=torch.Generator().manual_seed(0))
    measures = task.measures(logits, batch)
    total, count = measures.pop("val/accuracy")
    assert count == (batch["targets"] != IGNORED).sum()
    assert sum(int(part) for part, _ in measures.values()) == total
    assert sum(int(part) for _, part in measures.values()) == count
    assert all(name.startswith(f"val/accuracy/{task.difficulty_name}_") for name in measures)


@ALL
def test_no_validation_example_is_ever_trained_on(task: GeneratedTask) -> None:
    train = np.concatenate([draw(task, seed, block, held_out=False).tokens for seed in (0, 1) for block in range(4)])
    validation = np.concatenate([batch["tokens"].numpy() for batch in task.val_dataloader()])
    assert len(validation) == 100
    assert not held_out(train).any()
    assert held_out(validation).all()
    assert {row.tobytes() for row in train}.isdisjoint(row.tobytes() for row in validation)
    # and the hash holds out the share it says: 4000 examples, standard deviation 0.5 %
    share = held_out(task.generate(np.random.default_rng(2), 4000).tokens).mean()
    assert share == pytest.approx(1 / HELD_OUT_OF, abs=0.03)


@ALL
def test_an_example_depends_on_its_position_and_the_seed_alone(task: GeneratedTask) -> None:
    def rows(task: GeneratedTask, batches: int) -> list[list[int]]:
        return [row for batch in islice(task.train_dataloader(), batches) for row in batch["tokens"].tolist()]

    again = type(task)(**{**SMALL, "batch_size": 60}, **arguments(task))
    other = type(task)(**{**SMALL, "seed": 1}, **arguments(task))
    seen = rows(task, 10)
    assert rows(again, 4) == seen  # 4 x 60 = 10 x 24
    assert rows(other, 10) != seen
    assert len({tuple(row) for row in seen}) > 0.95 * len(seen)
    loader = task.train_dataloader()
    loader.load_state_dict({**loader.state_dict(), "sequences": 7 * 24})
    assert next(iter(loader))["tokens"].tolist() == seen[7 * 24 : 8 * 24]


def arguments(task: GeneratedTask) -> dict[str, Any]:
    if isinstance(task, WordProblem):
        return {"group": task.group}
    return {"vocabulary": 64} if isinstance(task, AssociativeRecall) else {}


def test_workers_do_not_change_the_examples() -> None:
    inline, workers = (PHop(**SMALL, num_workers=n).train_dataloader() for n in (0, 2))
    for ours, theirs in zip(islice(inline, 6), islice(workers, 6), strict=True):
        assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_position_of_other_settings_is_refused() -> None:
    state = PHop(**SMALL).train_dataloader().state_dict()
    with pytest.raises(ValueError, match="cannot resume: .* data_fingerprint"):
        PHop(hops=[1, 2], **SMALL).train_dataloader().load_state_dict(state)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PHop(hops=[0]), r"data\.init_args\.hops=\[0\]: expected numbers of hops"),
        (lambda: PHop(alphabet=2), r"data\.init_args\.alphabet=2: expected at least 3"),
        (lambda: WordProblem(group="S4"), r"data\.init_args\.group='S4': expected S5 or A5"),  # type: ignore[arg-type]
        (lambda: AssociativeRecall(pairs=[50]), "50 pairs and their questions need 150 tokens"),
        (lambda: AssociativeRecall(vocabulary=20), "expected at least 34 for 16 pairs"),
        (lambda: AssociativeRecall(power=0.0), "power=0.0: expected a number above 0"),
        (lambda: SelectiveCopy(copies=[100]), "100 letters and as many prompts need 200 tokens"),
        (lambda: NoisyRecall(noise=1.0), "noise=1.0: expected a number from 0 up to"),
        (lambda: Dyck(context_length=1), "context_length=1: expected at least 2"),
        (
            lambda: draw(WordProblem(context_length=2, group="A5"), 0, 0, held_out=True) and _only_one_example(),
            "too few different examples",
        ),
    ],
)
def test_impossible_settings_are_refused(make: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def _only_one_example() -> None:
    class Constant(WordProblem):
        def generate(self, rng: np.random.Generator, count: int) -> Any:
            return super().generate(np.random.default_rng(0), 1)

    for split in (True, False):  # one of the two sets has no example at all
        draw(Constant(context_length=4), 0, 0, held_out=split)


def test_all_of_them_are_registered() -> None:
    registered = {plugin.name: plugin.load() for plugin in available("task").values()}
    assert {type(task) for task in TASKS} <= set(registered.values())
    assert all(registered[task.name] is type(task) for task in TASKS)
