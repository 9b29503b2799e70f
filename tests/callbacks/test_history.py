# SPDX-License-Identifier: MIT
from callbacks.history import History


def test_values_of_one_epoch_become_one_record_in_order_of_epochs():
    history = History()
    history.log_metrics({"epoch": 1, "a": 2}, step=4)
    history.log_metrics({"epoch": 0, "a": 1}, step=2)
    history.log_metrics({"epoch": 1, "b": 3}, step=4)
    assert history.records == [{"epoch": 0, "a": 1.0}, {"epoch": 1, "a": 2.0, "b": 3.0}]


def test_what_belongs_to_no_epoch_is_left_out():
    history = History()
    history.log_metrics({"a": 1}, step=0)
    history.log_hyperparams({"a": 1})
    assert history.records == []
