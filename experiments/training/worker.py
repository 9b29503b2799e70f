# SPDX-License-Identifier: MIT
"""A worker process: reads jobs as JSON lines, trains them, answers with events as JSON lines.

One worker trains many sub-networks, so that it imports packages and opens the data once.
"""

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator

from datamodules.errors import DiskError
from experiments.command_line.command import quieten
from experiments.training.job import Job, TrainingByEntry, failure_line


def main() -> None:
    """Answers each line of standard input."""
    # Libraries print to standard error from here on: the coordinator must get only events.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    quieten()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def say(**event: object) -> None:
        events.write(json.dumps(event) + "\n")

    lines, train = _Lines(), TrainingByEntry()
    for line in lines:
        job = Job.from_json(line)
        lines.busy = True
        try:
            train(job, lambda done, of, values: say(event="epoch", done=done, of=of, values=_plain(values)))
        except KeyboardInterrupt:
            return
        except Exception as error:  # the worker's other jobs go on
            logging.exception("%s failed", job.title)
            try:
                say(event="failed", reason=failure_line(error))
            except DiskError as disk:
                say(event="disk", got=disk.got, expected=disk.expected, cure=disk.cure)
        else:
            say(event="done")
        lines.busy = False


class _Lines:
    """Lines of standard input; ends the process at once if the input ends during a job.

    That means that the coordinator was killed. When the run is resumed, no second process may write the same files.
    """

    def __init__(self):
        self.busy = False
        self._queue: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in sys.stdin:
            self._queue.put(line)
        if self.busy:
            os._exit(1)
        self._queue.put(None)

    def __iter__(self) -> Iterator[str]:
        while (line := self._queue.get()) is not None:
            yield line


def _plain(values: dict[str, float]) -> dict[str, float]:
    return {key: value for key, value in values.items() if value == value and abs(value) != float("inf")}


if __name__ == "__main__":
    main()
