"""Which ids of a host a rootless engine has, and what it calls them."""

import pytest

from rbee_runtime import subordinate
from rbee_runtime.subordinate import Span

SUBUID = """\
anna:100000:65536
rbee-engine:296608:65536
rbee-engine:994:1
rbee-engine:992:1
rbee-engine:993:1
a line that says nothing
rbee-engine:x:1
"""


@pytest.mark.parametrize(
    ("host_id", "name"), [(992, 1), (993, 2), (994, 3), (296608, 4), (296609, 5), (362143, 65539), (362144, None)]
)
def test_ids_lie_end_to_end_in_their_own_order(host_id: int, name: int | None) -> None:
    """As `podman unshare cat /proc/self/uid_map` shows it for these lines, whatever their order."""
    assert subordinate.inside(host_id, subordinate.lent(SUBUID, "rbee-engine")) == name


def test_what_was_not_lent_has_no_name() -> None:
    """Neither somebody else's ids nor root's."""
    spans = subordinate.lent(SUBUID, "rbee-engine")
    assert [subordinate.inside(each, spans) for each in (0, 991, 100000)] == [None] * 3


def test_a_new_user_is_lent_its_ids_and_what_is_free() -> None:
    """Lines of others stay letter by letter, and the span for images is nobody else's."""
    text = subordinate.lending("anna:100000:65536\nben:165536:65536\n", "e", [993, 44, 993])
    assert text == "anna:100000:65536\nben:165536:65536\ne:44:1\ne:993:1\ne:231072:65536\n"


@pytest.mark.parametrize("ids", [[992, 993, 994], [990, 992, 993, 994]])
def test_images_keep_their_span(ids: list[int]) -> None:
    """Whatever else is lent, and saying it twice changes nothing."""
    text = subordinate.lending(SUBUID, "rbee-engine", ids)
    assert subordinate.lent(text, "rbee-engine")[-1] == Span(296608, 65536)
    assert subordinate.lending(text, "rbee-engine", ids) == text
