import pytest

from exeunt.kube.changes import Missing
from exeunt.kube.errors import Rewound
from exeunt.kube.shown import Shown

CALL = ("voice", "call")


def listed(shown: Shown, *objects: tuple[str, str], version: str) -> tuple[list[str], list[Missing]]:
    """The names that are news in a list of these names with their versions, and what is missing."""
    shown.begin_list()
    shown.page(version)
    news = [name for name, at in objects if shown.show("voice", name, f"uid-{name}", at)[0]]
    return news, shown.end_list(version)


def test_of_a_new_list_only_the_news_is_told_and_what_it_does_not_show() -> None:
    shown = Shown("runs")
    assert listed(shown, ("call", "1"), ("chat", "2"), version="3") == (["call", "chat"], [])
    shown.keep("voice", "talk", "uid-talk", "4")
    shown.keep(*CALL, "uid-call", "5")
    assert shown.drop("voice", "chat") == "uid-chat"
    assert shown.drop("voice", "chat") is None
    news, missing = listed(shown, ("call", "5"), ("chat", "6"), version="7")
    assert (news, missing) == (["chat"], [Missing(("voice", "talk"), "uid-talk")])
    assert shown.uids() == {"uid-call", "uid-chat"}


def test_one_that_has_taken_the_name_of_another_is_news_and_tells_which() -> None:
    shown = Shown("runs")
    listed(shown, ("call", "1"), version="2")
    shown.begin_list()
    assert shown.show(*CALL, "uid-another", "3") == (True, Missing(CALL, "uid-call"))
    assert shown.end_list("3") == []


def test_a_list_that_begins_again_has_to_show_everything() -> None:
    shown = Shown("runs")
    listed(shown, ("call", "1"), ("chat", "2"), version="3")
    shown.begin_list()
    shown.show(*CALL, "uid-call", "1")
    assert listed(shown, ("chat", "2"), version="3") == ([], [Missing(CALL, "uid-call")])


def test_a_history_that_has_gone_back_is_noticed_by_the_list_and_by_each_object() -> None:
    shown = Shown("runs")
    listed(shown, ("call", "9"), version="10")
    with pytest.raises(Rewound, match="listed at version 9 after 10 was seen"):
        shown.page("9")
    with pytest.raises(Rewound, match="voice/call is at version 8 after 9 was seen"):
        shown.show(*CALL, "uid-call", "8")
    shown.page("11")
    assert shown.show(*CALL, "uid-call", "10") == (True, None)


def test_versions_that_are_no_numbers_are_not_compared() -> None:
    shown = Shown("runs")
    assert listed(shown, ("call", "b"), version="b") == (["call"], [])
    assert listed(shown, ("call", "a"), version="a") == (["call"], [])
