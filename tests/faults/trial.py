# SPDX-License-Identifier: MIT
"""One trial: a run folder, the coordinators that work on it one after another, and what must hold at the end."""

import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from callbacks import checkpoints
from datamodules.files import LEFTOVERS, read_sealed, sha256
from experiments import compare
from experiments.comparison import baselines, cells, coordinator  # noqa: F401 loaded before the fork
from experiments.reporting import report, terminal
from experiments.runs import run_folder  # noqa: F401
from tests.faults.tally import begun, repeated

MEASURED = ["epoch_seconds_serial", "epoch_seconds_parallel", "train_seconds", "peak_memory_mb", "query_microseconds"]
EPOCHS = 6
SECONDS = 240  # for one coordinator, start-up of workers on a busy machine included
SETTINGS = (
    "data=embedding_set", "n_subnets=2", "seeds=1", "scenarios=[knn,no_distribution,clustered_nearest]",
    f"trainer.max_epochs={EPOCHS}", "trainer.batch_size=32", "trainer.accelerator=cpu", "trainer.threads=1",
    "optimizer.lr=0.02", "logger=none", "logger._target_=tests.faults.tally.Tally",
)  # fmt: skip


IMPORTED = (cells, baselines, terminal)  # what the command imports when it runs, so that no coordinator need to


class Failed(Exception):
    """Something that must hold after a fault does not."""


@dataclass
class Trial:
    """A run folder with its tally.

    Attributes:
        folder: holds all of the trial; the run folder is `folder / "run"`.
        data: folder of the EmbeddingSet.
        outputs: what each coordinator wrote, in order.
        damaged: the finished sub-network, "key/cluster", of which a file was damaged; None for none.
    """

    folder: Path
    data: Path
    outputs: list[Path] = field(default_factory=list)
    damaged: str | None = None

    @property
    def run(self) -> Path:
        """The run folder."""
        return self.folder / "runs" / "run"

    @property
    def tally(self) -> Path:
        """Where epochs are counted."""
        return self.folder / "tally"

    def start(self, *arguments: str, prepare: Callable[[], None] | None = None) -> int:
        """Forks a coordinator: this process has imported everything, which would cost seconds each time.

        Args:
            *arguments: beside the settings of all coordinators.
            prepare: called in the new process before the command.

        Returns:
            Its process number.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        output = self.folder / f"output-{len(self.outputs)}"
        self.outputs.append(output)
        process = os.fork()
        if process:
            return process
        code = 70
        try:
            os.setsid()
            with open(output, "w") as stream:
                os.dup2(stream.fileno(), 1)
                os.dup2(stream.fileno(), 2)
            sys.stdout, sys.stderr = (open(number, "w", buffering=1, closefd=False) for number in (1, 2))
            faulthandler.dump_traceback_later(SECONDS - 10)  # where it hangs, if it does
            signal.signal(signal.SIGINT, signal.default_int_handler)
            report.write_report = lambda folder: None  # seconds of figures, which no fault of the drill is about
            run_folder.SECONDS_BETWEEN_NOTES = checkpoints.UNSYNCED_SECONDS = -1.0  # the same steps in every run
            settings = (*SETTINGS, f"data.path={self.data}", f"runs_dir={self.run.parent}", f"name={self.run.name}")
            sys.argv = ["experiments/compare.py", *settings, f"+logger.file={self.tally}", *arguments]
            if prepare:
                prepare()
            compare.main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)

    def end(self, process: int) -> int:
        """Waits for a coordinator: its exit code, or minus the signal that ended it.

        Args:
            process: its number.
        """
        for _ in range(100 * SECONDS):  # and no clock: a machine that sleeps must not count
            found, status = os.waitpid(process, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.killpg(process, signal.SIGKILL)
        os.waitpid(process, 0)
        raise Failed(f"no end within {SECONDS} s")

    def wait_for_epochs(self, process: int, number: int) -> list[int]:
        """Waits until so many epochs were begun.

        Args:
            process: of the coordinator.
            number: of epochs.

        Returns:
            The processes that began the epochs, the latest last.
        """
        for _ in range(200 * SECONDS):
            if len(begun(self.tally)) >= number:
                return [line[2] for line in begun(self.tally)]
            if os.waitid(os.P_PID, process, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
            time.sleep(0.005)
        raise Failed(f"the coordinator began only {len(begun(self.tally))} epochs: {self.said()[-1500:]}")

    def expect_stop(self, process: int, code: int, *words: str) -> None:
        """A coordinator that meets what it cannot change ends with an exit code and one line that says how to go on.

        Args:
            process: its number.
            code: the exit code.
            *words: what the last line must hold.
        """
        ended, said = self.end(process), self.said()
        if ended == 0 and code != 0 and (self.run / "results.csv").exists():
            return  # it was finished before
        lines = [line for line in said.splitlines() if line.strip()]
        if ended != code or "Traceback" in said or not all(word in lines[-1] for word in words):
            raise Failed(f"exit code {ended} instead of {code}, or no line with {words}: {said[-1500:]}")

    def said(self) -> str:
        """What the latest coordinator wrote."""
        return self.outputs[-1].read_text(errors="replace")

    def resume(self) -> None:
        """The same command again, in one process, must finish the run."""
        code = self.end(self.start())
        if code or "Traceback" in self.said():
            raise Failed(f"exit code {code} after the resume: {self.said()[-1500:]}")

    def check(self, undisturbed: "Trial", bound: int, same_weights: bool = True) -> tuple[int, int]:
        """Compares with an undisturbed run.

        Args:
            undisturbed: that run.
            bound: epochs that may have been begun twice.
            same_weights: whether weights must be the same bit for bit (DDP adds gradients in another order).

        Returns:
            Epochs begun twice, and apart from them those of `damaged`, which may be trained again from its start.

        Raises:
            Failed: something is not as it must be.
        """
        ours, theirs = (table(trial.run) for trial in (self, undisturbed))
        if not ours.equals(theirs):
            raise Failed(f"results.csv differs:\n{ours.compare(theirs) if ours.shape == theirs.shape else ours}")
        if same_weights and hashes(self.run) != hashes(undisturbed.run):
            raise Failed("the weights differ")
        manifest = read_sealed(self.run / "manifest.json")
        states = {about["state"] for about in manifest["subnetworks"].values()}
        if states != {"done"} or manifest["failed"]:
            raise Failed(f"sub-networks in the manifest are {states}, failed {manifest['failed']}")
        wrong = [name for name, known in manifest["files"].items() if sha256(self.run / name) != known]
        if wrong or manifest["files"].keys() != read_sealed(undisturbed.run / "manifest.json")["files"].keys():
            raise Failed(f"files that the manifest does not describe: {wrong}")
        kept = {path.relative_to(undisturbed.run) for path in undisturbed.run.rglob("*.epoch-*")}
        litter = [path for name in (*LEFTOVERS, "*.epoch-*") for path in self.run.rglob(name)]
        litter = [path for path in litter if path.relative_to(self.run) not in kept]
        if litter:
            raise Failed(f"left behind: {litter}")
        lost = repeated(self.tally)
        again = lost.pop(self.damaged, 0)
        if again > EPOCHS:
            raise Failed(f"{again} epochs of a damaged sub-network were trained twice, at most {EPOCHS} may be")
        if lost.total() > bound:
            raise Failed(f"{lost.total()} epochs were trained twice, at most {bound} may be")
        return lost.total(), again


def table(run: Path) -> pd.DataFrame:
    """results.csv without what is measured."""
    return pd.read_csv(run / "results.csv").drop(columns=MEASURED)


def hashes(run: Path) -> dict[str, str]:
    """SHA-256 of the weights of every sub-network."""
    return {str(file.relative_to(run)): sha256(file) for file in run.glob("subnetworks/*/?????.safetensors")}
