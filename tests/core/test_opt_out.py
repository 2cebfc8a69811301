"""What the annotation `enabled` says, however it is spelled."""

import pytest

from exeunt.run import bobrapet
from exeunt.run.opt_out import is_enabled, unclear


@pytest.mark.parametrize("value", ["false", "False", "FALSE", " false\n", "0", "no", "No", "off", "n", "f"])
def test_whatever_reads_as_false_opts_out(value: str) -> None:
    assert not is_enabled({bobrapet.ENABLED: value})
    assert unclear({bobrapet.ENABLED: value}) is None


@pytest.mark.parametrize("value", ["true", "True", " yes ", "1", "on", "y", "t"])
def test_whatever_reads_as_true_does_not(value: str) -> None:
    assert is_enabled({bobrapet.ENABLED: value})
    assert unclear({bobrapet.ENABLED: value}) is None


@pytest.mark.parametrize("value", ["", " ", "maybe", "disabled", "fasle", '"false"', "2", "null"])
def test_what_says_neither_counts_as_absent_and_is_reported(value: str) -> None:
    assert is_enabled({bobrapet.ENABLED: value})
    assert unclear({bobrapet.ENABLED: value}) == value


def test_absent_is_enabled_and_nothing_to_tell() -> None:
    assert is_enabled({})
    assert unclear({}) is None


def test_what_is_reported_has_an_end() -> None:
    assert unclear({bobrapet.ENABLED: "x" * 200_000}) == "x" * 64
