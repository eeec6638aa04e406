"""Train an ONNX file on over several processes or machines, with DDP or FSDP2: a complete example.

    torchrun --nproc_per_node 2 -m tools.train_distributed models/digits_cnn.onnx -o out.onnx --strategy fsdp
    torchrun --nnodes 4 --nproc_per_node 8 --rdzv_backend c10d --rdzv_endpoint HOST:29500 \\
        -m tools.train_distributed model.onnx -o out.onnx --strategy fsdp --checkpoint /shared/checkpoint

With ``ddp`` every process has the whole module and the gradients are averaged; with ``fsdp`` (FSDP2, ``fully_shard``)
parameters, gradients and the optimizer's state are shared out, and the parameters are gathered for the forward pass.
The same :class:`onnxgrow.torch.OnnxModule` does for both, and without ``torchrun`` for one process.

Checkpoints are those of ``torch.distributed.checkpoint``: written by all processes together, and read by any number of
them with either strategy, so that a run goes on elsewhere. At the end the first process alone writes the ONNX file.
Each step takes one batch of the whole run, whose parts go to the processes: the losses do not depend on their number,
as long as batch normalisation uses its running statistics (``--freeze-bn``; otherwise each process has its own batch).
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed import checkpoint
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_state_dict,
    set_state_dict,
)
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from onnxgrow.errors import GrowError
from onnxgrow.torch import OnnxModule, param_groups
from tools.retrain import SEED, load_data, rate_at

__all__ = ["main", "train"]

Row = dict[str, float]


class Run:
    """One process of a run.

    Args:
        options: The command line.
    """

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        cuda = torch.cuda.is_available()
        self.device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if cuda else torch.device("cpu")
        if cuda:
            torch.cuda.set_device(self.device)
        if "RANK" in os.environ:
            distributed.init_process_group("nccl" if cuda else "gloo")
        self.module = OnnxModule(options.model, freeze_bn=options.freeze_bn).to(self.device)
        self.model: nn.Module = self.module
        if distributed.is_initialized() and options.strategy == "ddp":
            self.model = DistributedDataParallel(self.module, [self.device] if cuda else None)
        elif distributed.is_initialized():
            fully_shard(self.module)
        # After sharding: the optimizer has to see the shards.
        groups = param_groups(self.module, lr=options.rate, weight_decay=options.weight_decay)
        self.optimizer = torch.optim.AdamW(groups)
        self.epoch = 0

    def part(self, indices: Tensor) -> Tensor:
        """This process's part of a batch."""
        return indices.chunk(self.world)[self.rank]

    def mean(self, value: Tensor) -> float:
        """Mean over the processes."""
        if distributed.is_initialized():
            distributed.all_reduce(value)
        return float(value) / self.world

    def train_epoch(self, data: Any, epoch: int, steps: int) -> float:
        """One pass; every process goes through the same permutation and takes its part of each batch."""
        self.model.train()
        images, labels = data.tensors
        order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(SEED + epoch))
        batch = self.options.batch
        losses = []
        for step in range(len(order) // batch):
            mine = self.part(order[step * batch : (step + 1) * batch])
            factor = rate_at(epoch * (len(order) // batch) + step, steps)
            for group in self.optimizer.param_groups:
                group["lr"] = group["initial_lr"] * factor
            logits = self.model(images[mine].to(self.device))
            loss = nn.functional.cross_entropy(logits, labels[mine].to(self.device))
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.detach())
        return self.mean(torch.stack(losses).mean())

    def evaluate(self, data: Any) -> float:
        """Mean loss; all processes run forward equally often, as sharded parameters are gathered by all of them."""
        self.model.eval()
        images, labels = data.tensors
        usable = len(labels) // self.world * self.world
        losses = []
        with torch.no_grad():
            for indices in torch.arange(usable).split(256 // self.world * self.world):
                mine = self.part(indices)
                logits = self.model(images[mine].to(self.device))
                losses.append(nn.functional.cross_entropy(logits, labels[mine].to(self.device), reduction="sum"))
        return self.mean(torch.stack(losses).sum()) * self.world / usable

    def save(self, folder: Path) -> None:
        """A checkpoint that any number of processes can read; the old one goes when the new one is whole."""
        partial = folder.with_name(folder.name + ".partial")
        if self.rank == 0:
            shutil.rmtree(partial, ignore_errors=True)
        self.wait()
        weights, state = get_state_dict(self.model, self.optimizer)
        checkpoint.save({"model": weights, "optimizer": state, "epoch": self.epoch}, checkpoint_id=partial)
        self.wait()
        if self.rank == 0:
            old = folder.with_name(folder.name + ".old")
            shutil.rmtree(old, ignore_errors=True)
            with suppress(FileNotFoundError):
                os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old, ignore_errors=True)
        self.wait()

    def load(self, folder: Path) -> None:
        """Go on from a checkpoint."""
        weights, state = get_state_dict(self.model, self.optimizer)
        found = {"model": weights, "optimizer": state, "epoch": 0}
        checkpoint.load(found, checkpoint_id=folder)
        set_state_dict(self.model, self.optimizer, model_state_dict=found["model"], optim_state_dict=found["optimizer"])
        self.epoch = int(found["epoch"])

    def write(self, path: Path) -> None:
        """Write the ONNX file: the whole state is gathered, and the first process puts it into the file."""
        whole = get_model_state_dict(self.model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
        if self.rank == 0:
            result = OnnxModule(self.options.model)
            result.load_state_dict(whole, strict=True)
            result.to_onnx(path, overwrite=self.options.overwrite)
        self.wait()

    def wait(self) -> None:
        """Until all processes are here."""
        if distributed.is_initialized():
            distributed.barrier()


def train(options: argparse.Namespace) -> list[Row]:
    """Train, save after each epoch, write the result; gives the figures of each epoch that was run here."""
    torch.manual_seed(SEED)
    run = Run(options)
    for group in run.optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    trained, held_out = load_data()
    steps = options.epochs * (len(trained) // options.batch)
    if options.checkpoint is not None and options.checkpoint.exists():
        run.load(options.checkpoint)
    rows: list[Row] = []
    last = min(options.epochs, options.stop_after or options.epochs)
    for epoch in range(run.epoch, last):
        loss = run.train_epoch(trained, epoch, steps)
        run.epoch = epoch + 1
        rows.append({"epoch": epoch + 1, "train_loss": loss, "validation_loss": run.evaluate(held_out)})
        if run.rank == 0:
            print("  ".join(f"{k} {v:.6g}" for k, v in rows[-1].items()), flush=True)
        if options.checkpoint is not None:
            run.save(options.checkpoint)
    run.write(options.output)
    if distributed.is_initialized():
        distributed.destroy_process_group()
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description="Train an ONNX file on over several processes and write it back.")
    parser.add_argument("model", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output")
    parser.add_argument("--strategy", choices=["ddp", "fsdp"], default="ddp")
    parser.add_argument("--epochs", type=int, default=10, help="of the whole schedule")
    parser.add_argument("--stop-after", type=int, metavar="N", help="leave the rest of the epochs to a later run")
    parser.add_argument("--batch", type=int, default=64, help="over all processes")
    parser.add_argument("--rate", type=float, default=1.5e-3, help="peak learning rate: half the small model's")
    parser.add_argument("--weight-decay", type=float, default=0.05)
    parser.add_argument("--freeze-bn", action="store_true", help="keep the running statistics")
    parser.add_argument("--checkpoint", type=Path, metavar="DIR", help="saved after each epoch, resumed from")
    parser.add_argument("--curves", type=Path, help="CSV of the figures of each epoch")
    options = parser.parse_args(argv)
    world = int(os.environ.get("WORLD_SIZE", 1))
    if options.batch % world:
        parser.error(f"a batch of {options.batch} cannot be shared out among {world} processes")
    if options.output.exists() and not options.overwrite:
        parser.error(f"{options.output} exists; give --overwrite or another name")
    try:
        rows = train(options)
    except GrowError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    if options.curves is not None and rows and int(os.environ.get("RANK", 0)) == 0:
        with open(options.curves, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    return 0


if __name__ == "__main__":
    sys.exit(main())
