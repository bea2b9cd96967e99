"""Training metrics: sums kept on the device, and a file with one JSON object per logged step."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from lumina.files import read_jsonl, replace_file
from lumina.flow_matching.path import Losses

T_BINS = 20
"""Equal bins of t in [0, 1) in which the loss of each task is counted (paper Figure 3)."""

BIN_REPORTS = 20
"""Reports of the bins in a stage, however long it is: they are many numbers."""

_COLUMNS = ("loss", "mse", "vd", "samples")
_BIN, _COUNT = "t_bin", "t_count"


class LossMeter:
    """Losses since the last report, per task and per t-bin, summed on the device without waiting for it."""

    def __init__(self, tasks: Sequence[str], device: torch.device) -> None:
        """Count for `tasks`, in this order."""
        self.tasks = tuple(tasks)
        # float64, so that the order of additions, which depends on the number of workers, is not seen in a report.
        self.totals = torch.zeros(len(tasks), len(_COLUMNS), dtype=torch.float64, device=device)
        self.bins = torch.zeros(len(tasks), 2, T_BINS, dtype=torch.float64, device=device)
        self.grad_norm = torch.zeros(2, dtype=torch.float64, device=device)

    @torch.no_grad()
    def add(self, task: int, losses: Losses, t: Tensor) -> None:
        """Count the items of one micro-batch, whose times are t [N], all on the meter's device."""
        rows = torch.stack([losses.total.detach(), losses.task.detach(), losses.direction.detach()]).double()
        self.totals[task, :3] += rows.sum(1)
        self.totals[task, 3] += len(t)
        index = (t * T_BINS).long().clamp_(0, T_BINS - 1)
        self.bins[task, 0].index_add_(0, index, rows[1])
        self.bins[task, 1].index_add_(0, index, torch.ones_like(rows[1]))

    @torch.no_grad()
    def add_step(self, grad_norm: Tensor) -> None:
        """Count one optimizer step, of which `grad_norm` [] is on the meter's device."""
        self.grad_norm[0] += grad_norm
        self.grad_norm[1] += 1

    def state(self) -> dict[str, Tensor]:
        """Tensors from which `restore` continues."""
        return {"totals": self.totals, "bins": self.bins, "grad_norm": self.grad_norm}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Continue from saved sums."""
        for name, own in self.state().items():
            own.copy_(state[name])

    def report(self) -> dict[str, float]:
        """Return the means since the last report over all workers, and start anew. Every worker must call it.

        A task that took part in none of these steps is left out, also of `loss`, the sum of the tasks' means.
        """
        totals, norms = over_workers(self.totals), over_workers(self.grad_norm)
        result = {"loss": 0.0}
        for name, row in zip(self.tasks, totals.tolist(), strict=True):
            if not row[3]:
                continue
            means = dict(zip(_COLUMNS, (value / row[3] for value in row), strict=True))
            result["loss"] += means["loss"]
            result.update({f"{column}/{name}": means[column] for column in ("loss", "mse", "vd")})
        result["grad_norm"] = float(norms[0] / norms[1])
        self.totals.zero_()
        self.grad_norm.zero_()
        return result

    def report_bins(self) -> dict[str, float]:
        """Return the mean squared error per task and t-bin since the last call, and the samples that it is a mean of.

        Bins without a sample are left out. Every worker must call it, at the steps of `bins_due`.
        """
        result = {}
        for name, (sums, counts) in zip(self.tasks, over_workers(self.bins).tolist(), strict=True):
            for index, (total, count) in enumerate(zip(sums, counts, strict=True)):
                if count:
                    result[f"{_BIN}/{name}/{index:02d}"] = total / count
                    result[f"{_COUNT}/{name}/{index:02d}"] = count
        self.bins.zero_()
        return result


def bins_due(step: int, steps: int, log_every: int) -> bool:
    """Whether the logged point `step` of a stage of `steps` is one of the `BIN_REPORTS` that report the bins.

    It is the last logged point of its part of the stage, so the late reports hold late steps alone.
    """
    following = min(step + log_every, steps)
    return step == steps or (following - 1) * BIN_REPORTS // steps > (step - 1) * BIN_REPORTS // steps


def mean_bins(rows: Iterable[Mapping[str, float]], task: str) -> dict[int, float]:
    """Return the mean squared error of a task per t-bin over all reports in `rows`, every sample counted once."""
    sums, counts = [0.0] * T_BINS, [0.0] * T_BINS
    for row in rows:
        for index in range(T_BINS):
            count = row.get(f"{_COUNT}/{task}/{index:02d}", 0.0)
            if count:
                sums[index] += row[f"{_BIN}/{task}/{index:02d}"] * count
                counts[index] += count
    return {index: sums[index] / counts[index] for index in range(T_BINS) if counts[index]}


def curve_points(row: Mapping[str, float]) -> dict[str, float]:
    """Return the numbers of a line that are worth a curve of their own: all but the step and the bins' counts."""
    return {key: value for key, value in row.items() if key != "step" and not key.startswith(f"{_COUNT}/")}


class MetricsFile:
    """`metrics.jsonl`: one JSON object per line with `step`, the number of optimizer steps done, and numbers.

    No step appears twice: a resumed run drops the lines behind the step it resumes from.
    """

    def __init__(self, path: Path, resume_step: int) -> None:
        """Open `path` for appending, with the lines up to `resume_step` kept."""
        kept = [row for row in read_jsonl(path) if row["step"] <= resume_step] if path.exists() else []
        # A new file in its place: whoever follows the old one sees that it was replaced.
        replace_file(path, "".join(map(_line, kept)).encode())
        self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Append one line, at once visible to readers."""
        self._file.write(_line({"step": step, **values}))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _line(row: Mapping[str, float]) -> str:
    return json.dumps(row) + "\n"


def over_workers(values: Tensor) -> Tensor:
    """Return the sum of a tensor over all workers, on each of them. Every worker must call it."""
    total = values.clone()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.all_reduce(total)
    return total
