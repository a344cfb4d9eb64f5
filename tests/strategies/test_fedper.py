"""FedPer, LG-FedAvg and FedBN: FedAvg with parts that stay with the clients, under names of their own."""

from __future__ import annotations

import pytest

from corolla.launch import plan_run
from tests.strategies.conftest import small
from tests.strategies.test_contract import _strategy

OWN = {"fedper": ["head"], "lg_fedavg": ["stem", "stages"], "fedbn": ["norm"]}


@pytest.mark.parametrize("method", OWN)
def test_a_file_of_its_own_is_fedavg_with_private_parts(method: str) -> None:
    """All that a run reads is the same but the name: so are its bits."""
    own = plan_run(small(f"method={method}", "run_dir=unused")).config
    parts = f"private=[{','.join(OWN[method])}]"
    fedavg = plan_run(small("method=fedavg", parts, "run_dir=unused")).config
    assert own.method.name == method
    assert not _strategy(own).has_global  # the server's own parts were never trained
    assert own.to_yaml() == fedavg.to_yaml().replace("name: fedavg", f"name: {method}")
