# SPDX-License-Identifier: MIT
import numpy as np
import pytest
from sklearn.model_selection import LeaveOneOut, cross_val_score
from sklearn.neighbors import KNeighborsClassifier

from datamodules.errors import InputError
from lightning_modules.neighbours import leave_one_out_accuracy


def rows(n=40, classes=5, seed=0):
    random = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    z = np.eye(classes, 6)[labels] + random.normal(0, 0.5, (n, 6))
    return z / np.linalg.norm(z, axis=1, keepdims=True), labels


def test_nearest_neighbour_agrees_with_scikit_learn():
    z, labels = rows()
    theirs = cross_val_score(KNeighborsClassifier(1), z, labels, cv=LeaveOneOut()).mean()
    assert leave_one_out_accuracy(z, labels) == pytest.approx(theirs)


def test_votes_and_their_ties_by_hand():
    angles = np.radians([0, 1, 2.5, 4, 40, 41])
    z = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    labels = np.array([0, 1, 0, 0, 1, 1])
    # 0, 2 and 3 are named by each other; 1 is outvoted by them, and so are 4 and 5 by 3 and 2.
    assert leave_one_out_accuracy(z, labels, k=3) == pytest.approx(3 / 6)
    # Without 3 and with two votes, which differ for each but 1, the nearer one counts: only 4 and 5 name each other.
    assert leave_one_out_accuracy(z[[0, 1, 2, 4, 5]], labels[[0, 1, 2, 4, 5]], k=2) == pytest.approx(2 / 5)


def test_identities_with_one_image_are_not_asked_but_may_be_taken_for_others():
    z, labels = rows()
    labels = np.where(np.arange(40) == 7, 99, labels)
    theirs = KNeighborsClassifier(2).fit(z, labels).kneighbors(z)[1][:, 1]
    asked = np.arange(40) != 7
    expected = (labels[theirs] == labels)[asked].mean()
    assert leave_one_out_accuracy(z, labels) == pytest.approx(expected)


def test_questions_without_an_answer_are_refused():
    z, labels = rows(6, 3)
    with pytest.raises(InputError, match="k = 6"):
        leave_one_out_accuracy(z, labels, k=6)
    with pytest.raises(InputError, match="two images"):
        leave_one_out_accuracy(z, np.arange(6))
