# SPDX-License-Identifier: MIT
"""Indexes: the class means most similar to a probe, found without looking at all of them."""
