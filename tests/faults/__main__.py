# SPDX-License-Identifier: MIT
"""The fault drill: disturb a run, resume it, compare it with an undisturbed one; many times.

python -m tests.faults --faults 100 [--seed 0] [--only K] [--jobs 2] [--keep FOLDER]
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch: coordinators are forked and must not inherit threads

import argparse
import json
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from datamodules.synthetic import SyntheticIdentities
from tests.faults.faults import Kind, Undisturbed, plan
from tests.faults.injection import count_steps
from tests.faults.trial import Failed, Trial


def main() -> int:
    """Runs the drill; 0 where every fault was survived."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--faults", type=int, default=12, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="of everything random")
    parser.add_argument("--only", type=int, help="repeat one fault alone, by its number from 0")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), help="trials at a time")
    parser.add_argument("--keep", type=Path, help="folder in which trials that fail are kept")
    asked = parser.parse_args()
    kinds = list(enumerate(plan(asked.faults, asked.seed)))
    kinds = kinds if asked.only is None else kinds[asked.only : asked.only + 1]

    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        data = _data(Path(name) / "data")
        reference = Trial(Path(name) / "undisturbed", data)
        usual = _undisturbed(reference)
        print(f"undisturbed: {usual.seconds:.1f} s, {usual.steps} steps, {usual.bytes >> 10} KiB", flush=True)
        survived = lost = damaged = again = 0
        for number, kind, outcome in _trials(kinds, asked, Path(name), data, reference, usual):
            survived, lost = survived + outcome["survived"], lost + outcome["lost"]
            damaged, again = damaged + outcome["damaged"], again + outcome["again"]
            anew = f", a finished sub-network again ({outcome['again']} epochs)" if outcome["damaged"] else ""
            print(
                f"{number:3d} {kind.name}: {outcome['what']}, lost {outcome['lost']}{anew}, {outcome['seconds']:.1f} s",
                flush=True,
            )
            if not outcome["survived"]:
                print(f"    FAILED: {outcome['why']}\n    repeat: python -m tests.faults --faults {asked.faults} "
                      f"--seed {asked.seed} --only {number} --keep FOLDER", flush=True)  # fmt: skip
    print(f"finished sub-networks damaged {damaged} epochs_trained_again {again}")
    print(f"faults {len(kinds)} survived {survived} lost_epochs {lost}")
    return int(survived < len(kinds))


def _data(folder: Path) -> Path:
    process = os.fork()  # this process computes nothing with torch, so that it may be forked
    if not process:
        made = SyntheticIdentities(
            n_identities=80, dim=16, samples_per_identity=8, intrinsic_dim=12, n_families=8, noise=0.8
        )
        made.write(folder)
        os._exit(0)
    os.waitpid(process, 0)
    return folder


def _undisturbed(trial: Trial) -> Undisturbed:
    trial.run.parent.mkdir(parents=True)
    steps = trial.folder / "steps"
    started = time.perf_counter()
    code = trial.end(trial.start(prepare=lambda: count_steps(trial.run, steps)))
    seconds = time.perf_counter() - started
    if code:
        raise SystemExit(f"the undisturbed run ended with {code}:\n{trial.said()}")
    size = sum(-(-file.stat().st_size // 4096) * 4096 for file in trial.run.rglob("*"))
    return Undisturbed(seconds, int(steps.read_text()), size)


def _trials(kinds, asked, folder: Path, data: Path, reference: Trial, usual: Undisturbed):
    waiting, running = list(kinds), {}
    while waiting or running:
        while waiting and len(running) < asked.jobs:
            number, kind = waiting.pop(0)
            trial = Trial(folder / f"fault-{number}", data)
            process = os.fork()
            if not process:
                _fork_of_trial(trial, kind, f"{asked.seed} {number}", reference, usual)
            running[process] = number, kind, trial
        process, _ = os.wait()
        if process not in running:
            continue
        number, kind, trial = running.pop(process)
        outcome = json.loads((trial.folder / "outcome").read_text())
        if not outcome["survived"] and asked.keep:
            shutil.copytree(trial.folder, asked.keep / trial.folder.name, dirs_exist_ok=True)
        shutil.rmtree(trial.folder, ignore_errors=True)
        yield number, kind, outcome


def _fork_of_trial(trial: Trial, kind: Kind, seed: str, reference: Trial, usual: Undisturbed) -> None:
    started, lost, again, what, why = time.perf_counter(), 0, 0, "not done", ""
    try:
        trial.folder.mkdir(parents=True)
        what = kind.fault(trial, random.Random(seed), usual)
        trial.resume()
        lost, again = trial.check(reference, kind.bound, kind.same_weights)
    except Failed as error:
        why = str(error)
    except BaseException as error:  # a defect of the drill must count as one
        why = f"{type(error).__name__}: {error}"
    outcome = {
        "what": what, "why": why, "survived": not why, "lost": lost, "damaged": trial.damaged is not None,
        "again": again, "seconds": time.perf_counter() - started,
    }  # fmt: skip
    (trial.folder / "outcome").write_text(json.dumps(outcome))
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
