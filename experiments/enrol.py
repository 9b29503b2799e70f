# SPDX-License-Identifier: MIT
"""Add people to an Identifier, or take them out: python -m experiments.enrol identifier=DIR images=DIR out=DIR"""

from omegaconf import DictConfig

from experiments.coordination.command_line import command
from experiments.coordination.screen import LINE, notes, results
from experiments.enrolment.config import EnrolConfig, check_request


@command("enrol", EnrolConfig)
def main(cfg: DictConfig) -> None:
    """Takes out, adds, trains anew where asked for, compares, saves."""
    from experiments.enrolment.accuracy import show_accuracy
    from experiments.enrolment.newcomers import read_newcomers
    from experiments.enrolment.original import open_original
    from experiments.enrolment.retraining import check_retrainable, fit_again, retrain_changed
    from experiments.enrolment.saving import save
    from lightning_modules.enrolment import with_identities, without_identities
    from lightning_modules.identifier import Identifier

    console = notes()
    leaving, target = check_request(cfg)
    before = Identifier.load(cfg.identifier, cfg.device)
    original = open_original(before)
    if cfg.retrain:
        check_retrainable(before, original)
    remaining = without_identities(before, leaving) if leaving else before
    newcomers = read_newcomers(cfg, remaining)
    after = with_identities(remaining, list(newcomers.names), newcomers.class_means()) if newcomers else remaining
    if cfg.retrain:
        after = retrain_changed(before, after, original, newcomers, console)
    if after.needs_fit:
        after = fit_again(after, original, newcomers)
    show_accuracy(before, after, original, newcomers, results())
    save(target, after, leaving, newcomers)
    results().print(f"identifier of {len(after.identities)} people: {target}", **LINE)


if __name__ == "__main__":
    main()
