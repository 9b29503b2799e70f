# SPDX-License-Identifier: MIT
"""A worker process: reads jobs as JSON lines, trains them, answers with events as JSON lines.

One worker trains many sub-networks, so that imports and the opening of the data are paid once. Lines of JSON and not
pickled objects: they can be read by people, sent over ssh, and hold nothing that executes.
"""

import json
import logging
import os
import queue
import sys
import threading
from collections.abc import Iterator

from datamodules.files import disk_error
from experiments.coordination.command_line import quieten
from experiments.coordination.job import Job


def main() -> None:
    """Answers each line of standard input; ends with it."""
    # Libraries may print; only events may reach the coordinator.
    events = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    quieten()
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    def say(**event: object) -> None:
        events.write(json.dumps(event) + "\n")

    lines = _Lines()
    for line in lines:
        job = Job.from_json(line)
        lines.busy = True
        try:
            job.train(lambda done, of, values: say(event="epoch", done=done, of=of, values=_plain(values)))
        except KeyboardInterrupt:
            return
        except Exception as error:  # one that fails must not cost the worker's other jobs
            logging.exception("%s failed", job.title)
            if (disk := disk_error(error)) is not None:
                say(event="disk", got=disk.got, expected=disk.expected, cure=disk.cure)
            else:
                say(event="failed", reason=" ".join(f"{type(error).__name__}: {error}".split()))
        else:
            say(event="done")
        lines.busy = False


class _Lines:
    """Lines of standard input; ends the process at once where input ends in the middle of a job.

    The coordinator closes a worker's input only between jobs. If it ends during one, the coordinator was killed, and
    whoever resumes the run must not meet a second process that writes the same files.
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
