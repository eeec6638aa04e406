"""Train a (grown) ONNX file on and write it back: a complete example, to be copied and changed.

    python -m tools.retrain models/digits_cnn.onnx -o digits_cnn.trained.onnx --epochs 10 --curves curves.csv
    torchrun --nproc_per_node 2 -m tools.retrain models/digits_cnn.onnx -o digits_cnn.trained.onnx

Nothing of the code that made the model is needed. The data are scikit-learn's handwritten digits; replace ``load_data``
by your own. The schedule is what paid off after growing small CNNs and MLPs: 5 % warm-up, then cosine, from about half
of the small model's peak rate. What is written is the best state by validation, the one before training included.

A run that was stopped goes on with the same command and ``--checkpoint``. Under ``torchrun`` every process trains on
its share of each batch (DistributedDataParallel); only the first one writes.
"""

from __future__ import annotations

import argparse
import csv
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from onnxgrow.errors import EnvironmentFault, GrowError
from onnxgrow.torch import EntryRates, OnnxModule, param_groups

__all__ = ["main", "train"]

SEED = 20
COLUMNS = ("epoch", "rate", "train_loss", "validation_loss", "accuracy", "seconds")
AMP = {"off": None, "bf16": torch.bfloat16, "fp16": torch.float16}


def load_data() -> tuple[TensorDataset, TensorDataset]:
    """Training and validation data: images float32 (1, 8, 8) in [0, 1], labels int64."""
    digits = load_digits()
    images = torch.from_numpy((digits.images / 16.0).astype("float32"))[:, None]
    labels = torch.from_numpy(digits.target.astype("int64"))
    first, second = train_test_split(range(len(labels)), test_size=0.25, random_state=SEED, stratify=digits.target)
    return TensorDataset(images[first], labels[first]), TensorDataset(images[second], labels[second])


def rate_at(step: int, steps: int, warm_up: float = 0.05) -> float:
    """Factor on the peak rate: linear warm-up, then cosine to zero."""
    rising = max(1, round(warm_up * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def write_curves(path: Path, rows: Sequence[dict[str, float]]) -> None:
    """The figures of each epoch as CSV."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


def board(folder: Path) -> Callable[[dict[str, float]], None]:
    """What shows the figures of an epoch in TensorBoard; an event file in a folder.

    Raises:
        EnvironmentFault: TensorBoard is not installed.
    """
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        hint = "pip install tensorboard, or use --curves"
        raise EnvironmentFault("--tensorboard", "TensorBoard is not installed", hint) from error
    writer = SummaryWriter(str(folder))

    def show(row: dict[str, float]) -> None:
        for name, value in row.items():
            if name != "epoch" and math.isfinite(value):
                writer.add_scalar(name, value, int(row["epoch"]))
        writer.flush()

    return show


def evaluate(model: nn.Module, data: DataLoader[Any], device: torch.device) -> tuple[float, float]:
    """Mean loss and share of right answers."""
    model.eval()
    loss, right, count = 0.0, 0, 0
    with torch.no_grad():
        for images, labels in data:
            logits = model(images.to(device))
            loss += float(nn.functional.cross_entropy(logits, labels.to(device), reduction="sum"))
            right += int((logits.argmax(1) == labels.to(device)).sum())
            count += len(labels)
    return loss / count, right / count


def train_epoch(
    model: nn.Module, data: DataLoader[Any], optimizer: torch.optim.Optimizer, schedule: Any, amp: str, scaler: Any
) -> float:
    """One pass over the data; returns the mean loss of this process."""
    model.train()
    device = next(model.parameters()).device
    losses: list[Tensor] = []
    for images, labels in data:
        optimizer.zero_grad()
        with torch.autocast(device.type, AMP[amp], enabled=AMP[amp] is not None):
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        schedule.step()
        losses.append(loss.detach())
    return float(torch.stack(losses).mean())


def train(options: argparse.Namespace) -> Iterator[dict[str, float]]:
    """Train, yield one row of figures an epoch, and write the result."""
    rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    torch.manual_seed(SEED)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
    if world > 1:
        distributed.init_process_group("nccl" if cuda else "gloo")
    module = OnnxModule(options.model, freeze_bn=options.freeze_bn).to(device)
    if rank == 0:
        print(module.coverage, file=sys.stderr)
    groups = param_groups(module, lr=options.rate, weight_decay=options.weight_decay)
    optimizer = torch.optim.AdamW(groups)
    trained, held_out = load_data()
    sampler: DistributedSampler[Any] | None = DistributedSampler(trained, seed=SEED) if world > 1 else None
    loader = DataLoader(
        trained, options.batch // world, sampler=sampler, shuffle=sampler is None, drop_last=True,
        generator=torch.Generator().manual_seed(SEED),
    )  # fmt: skip
    validation = DataLoader(held_out, 256)
    steps = options.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate_at(step, steps))
    scaler = torch.amp.GradScaler(device.type, enabled=options.amp == "fp16")
    model: nn.Module = DistributedDataParallel(module, [device] if cuda else None) if world > 1 else module
    entries = None
    if module.growth_map is not None:
        entries = EntryRates(optimizer, module, new=options.new_rate, warm_up=round(0.05 * steps))

    loss, accuracy = evaluate(module, validation, device)
    best = (loss, {k: v.clone() for k, v in module.state_dict().items()})
    yield {"epoch": 0, "rate": 0.0, "train_loss": math.nan, "validation_loss": loss, "accuracy": accuracy, "seconds": 0}
    start = 0
    if options.checkpoint and options.checkpoint.exists():
        state = torch.load(options.checkpoint, map_location=device, weights_only=True)
        module.load_state_dict(state["module"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        scaler.load_state_dict(state["scaler"])
        if entries is not None:
            entries.steps = state["entry_steps"]
        start, best = state["epoch"], (state["best_loss"], state["best"])
    for epoch in range(start, options.epochs):
        began = time.perf_counter()
        if sampler is not None:
            sampler.set_epoch(epoch)
        rate = schedule.get_last_lr()[0]
        train_loss = train_epoch(model, loader, optimizer, schedule, options.amp, scaler)
        loss, accuracy = evaluate(module, validation, device)
        if loss < best[0]:
            best = (loss, {k: v.clone() for k, v in module.state_dict().items()})
        if options.checkpoint and rank == 0:
            state = {
                "module": module.state_dict(), "optimizer": optimizer.state_dict(), "schedule": schedule.state_dict(),
                "scaler": scaler.state_dict(), "epoch": epoch + 1,
                "entry_steps": entries.steps if entries is not None else 0, "best_loss": best[0], "best": best[1],
            }  # fmt: skip
            partial = options.checkpoint.with_name(options.checkpoint.name + ".partial")
            torch.save(state, partial)
            os.replace(partial, options.checkpoint)  # a stop while writing leaves the old one
        yield {
            "epoch": epoch + 1, "rate": rate, "train_loss": train_loss, "validation_loss": loss, "accuracy": accuracy,
            "seconds": time.perf_counter() - began,
        }  # fmt: skip
    if rank == 0:
        module.load_state_dict(best[1])
        module.to_onnx(options.output, overwrite=options.overwrite)
    if world > 1:
        distributed.barrier()
        distributed.destroy_process_group()


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Train an ONNX file on and write it back.")
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch", type=int, default=64, help="over all processes")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate: half the small model's")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--new-rate", type=float, default=1.0, help="factor on the rate of new entries of a grown file")
    parser.add_argument("--freeze-bn", action="store_true", help="keep the running statistics")
    parser.add_argument("--amp", choices=sorted(AMP), default="off", help="mixed precision")
    parser.add_argument("--checkpoint", type=Path, help="saved after each epoch, resumed from where it exists")
    parser.add_argument("--curves", type=Path, help="CSV of the figures of each epoch")
    parser.add_argument("--tensorboard", type=Path, metavar="DIR", help="the same figures for TensorBoard")
    options = parser.parse_args(argv)
    rank = int(os.environ.get("RANK", 0))
    if options.output.exists() and not options.overwrite:
        parser.error(f"{options.output} exists; give --overwrite or another name")
    rows = []
    try:
        show = board(options.tensorboard) if options.tensorboard and rank == 0 else None
        for row in train(options):
            rows.append(row)
            if show is not None:
                show(row)
            if rank == 0:
                print("  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    except GrowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.curves and rank == 0:
        write_curves(options.curves, rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
