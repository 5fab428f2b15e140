"""The judge of the restores beneath queues: it must see what it is there for."""

from tests.queues.journal import Line, violations


def line(who: str, what: str, generation: int, step: int, state: str = "") -> Line:
    return Line(who, what, generation, step, state or f"{generation}.{step}")


ALONE = [
    line("a", "opens", 1, 0),
    line("a", "saved", 1, 1),
    line("a", "saved", 1, 2),
    line("a", "closes", 1, 2),
]


def test_a_restore_and_a_writer_that_was_killed_are_fine() -> None:
    killed = [line("b", "opens", 1, 3), line("b", "saved", 1, 4)]  # step 3 was saved, not noted
    restored = [line("c", "opens", 2, 1, "1.1"), line("c", "saved", 2, 2), line("c", "saved", 2, 3)]
    assert violations([*ALONE, *killed, *restored]) == []


def test_two_writers_at_once_are_seen() -> None:
    (found,) = violations([*ALONE[:2], line("b", "opens", 1, 1), line("a", "saved", 1, 2)])
    assert found == "a saved step 2 of generation 1 after b opened the run"


def test_a_writer_that_a_restore_left_behind_is_seen() -> None:
    (found,) = violations([*ALONE[:2], line("a", "saved", 2, 2)])
    assert "but it opened generation 1" in found


def test_a_writer_that_opens_what_a_restore_left_is_seen() -> None:
    restored = [line("b", "opens", 2, 1, "1.1"), line("c", "opens", 1, 2)]
    (found,) = violations([*ALONE, *restored])
    assert found == "c opens step 2 of generation 1, and generation 2 is there"


def test_lost_steps_are_seen() -> None:
    (found,) = violations([*ALONE, line("b", "opens", 1, 1)])
    assert found == "b opens step 1 of generation 1, and step 2 was saved"


def test_a_state_that_nobody_saved_is_seen() -> None:
    (found,) = violations([*ALONE, line("b", "opens", 2, 2, "other")])
    assert found == "b opens step 2 of generation 2 with a state that nobody saved"


def test_a_history_that_forks_is_seen() -> None:
    again = [line("b", "opens", 1, 2), line("b", "saved", 1, 3), line("b", "saved", 1, 3, "other")]
    (found,) = violations([*ALONE, *again])
    assert found == "b saved step 3 of generation 1 with another state than before"
