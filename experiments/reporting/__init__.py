# SPDX-License-Identifier: MIT
"""From a run folder to its report: read and merge, compute, lay out tables and figures, write."""
