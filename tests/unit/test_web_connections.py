"""By what connections are counted, where one peer may have only its share of them."""

from __future__ import annotations

import pytest

from penstock.web.connections import share_of


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("192.0.2.1", "192.0.2.1", True),
        ("192.0.2.1", "192.0.2.2", False),
        ("192.0.2.1", "::ffff:192.0.2.1", True),
        ("::ffff:192.0.2.1", "::ffff:192.0.2.2", False),
        ("2001:db8:0:1::1", "2001:db8:0:1:ffff:ffff:ffff:ffff", True),
        ("2001:db8:0:1::1", "2001:db8:0:2::1", False),
        ("fe80::1%eth0", "fe80::2", True),
    ],
)
def test_addresses_that_one_host_may_have_share_what_one_host_may_take(one: str, other: str, same: bool) -> None:
    assert (share_of(one) == share_of(other)) == same
