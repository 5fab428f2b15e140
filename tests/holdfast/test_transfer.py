"""The memory that files are read into."""

from __future__ import annotations

from holdfast.copies.transfer import CHUNK, Blocks


def test_memory_is_used_again_when_nobody_looks_at_it() -> None:
    blocks = Blocks()
    first = blocks.take()
    first[:3] = b"abc"
    del first

    assert bytes(blocks.take()[:3]) == b"abc"


def test_memory_is_not_used_again_while_a_part_of_a_part_of_it_is_held() -> None:
    """Shown to fail: without the attempt to make the block longer."""
    blocks = Blocks()
    held = []
    for number in range(3):
        view = blocks.take()
        assert len(view) == CHUNK
        view[:] = bytes([number]) * CHUNK
        held.append(view[10:][-1:])
        del view

    assert [bytes(piece) for piece in held] == [b"\0", b"\1", b"\2"]
