"""Which worker has the beginning of a prompt, from the prompts that it got."""

import pytest

from rbee_runtime.queen.affinity import MARKS, Cache, Homes, marks, rank


def said(letter: str, size: int) -> bytes:
    return letter.encode() * size


def favourite(mark: int, numbers: list[int]) -> int:
    return max(numbers, key=lambda each: rank(mark, each))


LONG = said("a", 5000)


@pytest.mark.parametrize(
    ("size", "number"), [(0, 0), (255, 0), (256, 1), (511, 1), (512, 2), (5000, 5), (10**6, len(MARKS))]
)
def test_a_prompt_has_a_mark_for_each_doubling(size: int, number: int) -> None:
    """However long it is, there are few."""
    assert len(marks(said("a", size), 1)) == number


def test_marks_are_of_all_bytes_before_them() -> None:
    """One other byte changes every mark behind it and none before; models have nothing in common."""
    other = LONG[:600] + b"b" + LONG[601:]
    same = [one == two for one, two in zip(marks(LONG, 1), marks(other, 1), strict=True)]
    assert same == [True, True, False, False, False]
    assert not set(marks(LONG, 1)) & set(marks(LONG, 2))


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (LONG, True),
        (LONG + said("b", 4000), True),
        (LONG[:600], True),
        (LONG[:1100] + said("b", 1000), True),
        (LONG[:600] + said("b", 9000), False),
        (said("b", 5000), False),
        (LONG[:200], False),
    ],
    ids=["the same", "goes on", "its beginning", "half the same", "a tenth the same", "another", "too short"],
)
def test_a_conversation_finds_its_worker(asked: bytes, *, found: bool) -> None:
    """As it grows, or as another one with a beginning that is worth it."""
    homes: Homes[str] = Homes()
    homes.note(marks(LONG, 1), Cache("w"))
    assert homes.find(marks(asked, 1)) == ("w" if found else None)


def test_who_had_it_last_has_it() -> None:
    """And nobody, once the process that had it is gone."""
    homes: Homes[str] = Homes()
    one, two = Cache("one"), Cache("two")
    homes.note(marks(LONG, 1), one)
    homes.note(marks(LONG, 1), two)
    assert homes.find(marks(LONG, 1)) == "two"
    two.owner = None
    assert homes.find(marks(LONG, 1)) is None


def test_memory_is_bounded_and_what_is_used_stays() -> None:
    """A million conversations leave as many marks as there may be; one that goes on is not forgotten for them."""
    homes: Homes[str] = Homes(1000)
    mine = Cache("w")
    for number in range(10_000):
        homes.note([number], Cache("other"))
        homes.note([-1], mine)
    assert len(homes) <= 1000
    assert homes.find([-1]) == "w"
    assert homes.find([0]) is None


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_prompts_favour_workers_evenly(workers: int) -> None:
    """Each worker is the favourite of its share of prompts, and one more takes only from each a part."""
    numbers = [marks(said(chr(97 + each), 256), 0)[0] for each in range(workers + 1)]
    prompts = [marks(f"{prompt:<300}".encode(), 0)[0] for prompt in range(3000)]
    before = [favourite(mark, numbers[:-1]) for mark in prompts]
    after = [favourite(mark, numbers) for mark in prompts]
    assert all(before.count(each) > 0.6 * len(prompts) / workers for each in numbers[:-1])
    assert {new for old, new in zip(before, after, strict=True) if old != new} == {numbers[-1]}
