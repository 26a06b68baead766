"""A small study as a user would write it with torch-uncertainty, Lightning and Ray Tune.

The peer of :mod:`benchmarks.time_to_verdict`: each library in its documented use, with progress
bar, logger, checkpoints and sanity checks off, data in memory, one thread per trial, a trial per
core, workers used again. It imports nothing of this project and reads arrays from a file.

``python -m benchmarks.plain_study DATA.npz OUT`` searches a BatchEnsemble and a single network,
runs the best again, confirms them, their Deep Ensemble and two controls on fresh seeds, stores
every member's logits and prints a t-test of each arm against the single network.
"""

import json
import logging
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Literal, get_args

import lightning
import numpy as np
import ray
import torch
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from scipy.stats import ttest_ind
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset
from torch_uncertainty.layers import BatchLinear
from torch_uncertainty.methods import deep_ensembles
from torch_uncertainty.models.mlp import batched_mlp, mlp
from torch_uncertainty.routines import ClassificationRoutine
from torch_uncertainty.transforms import RepeatTarget

MEMBERS, WIDTH, EPOCHS, BATCH, CLASSES = 4, 64, 16, 128, 10
TRIALS, RESCORED, SEEDS, SLOTS = 20, 5, 10, 2
ARMS = {
    "batch_ensemble": "batch_ensemble",
    "negative_control": "batch_ensemble",
    "single": "single",
    "deep_ensemble": "single",
    "positive_control": "single",
}
"""Each confirmed arm, and whose best values it is trained with."""
Data = dict[str, np.ndarray]
Config = dict[str, Any]
How = Literal["quick", "plain", "routine"]
"""``plain`` has the data loader as one writes it, ``routine`` torch-uncertainty's own training too;
``quick`` saves the loader the examples of a batch one by one."""
HOW: tuple[How, ...] = get_args(How)


def network(kind: str, inputs: int) -> nn.Module:
    """Return the network of an arm: its output has the members first."""
    hidden = [WIDTH, WIDTH]
    if kind in ("deep_ensemble", "positive_control"):
        return deep_ensembles([mlp(inputs, CLASSES, hidden) for _ in range(MEMBERS)])
    if kind == "single":
        return mlp(inputs, CLASSES, hidden)
    made = batched_mlp(inputs, CLASSES, hidden, MEMBERS)
    if kind == "negative_control":  # Members that cannot differ.
        for layer in made.modules():
            if isinstance(layer, BatchLinear):
                layer.r_group.data.fill_(1).requires_grad_(False)
                layer.s_group.data.fill_(1).requires_grad_(False)
                layer.bias.data = layer.bias.data[:1].repeat(MEMBERS, 1)
    return made


def optimiser_and_schedule(network: nn.Module, lr: float, weight_decay: float, steps: int) -> Any:
    """Return SGD with Nesterov momentum and a cosine schedule over the steps."""
    optimizer = torch.optim.SGD(
        network.parameters(), lr, 0.9, 0, weight_decay, nesterov=True, fused=True
    )
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


class Classifier(lightning.LightningModule):
    """A network with its loss and optimiser."""

    def __init__(self, kind: str, inputs: int, lr: float, weight_decay: float, steps: int) -> None:
        super().__init__()
        self.model, self.steps = network(kind, inputs), steps
        self.lr, self.weight_decay = lr, weight_decay
        self.members = 1 if kind == "single" else MEMBERS
        self.scale = self.members if kind in ("deep_ensemble", "positive_control") else 1

    def training_step(self, batch: tuple[Tensor, Tensor], number: int) -> Tensor:
        """Return the mean loss over members; of a Deep Ensemble the sum."""
        x, y = batch
        return self.scale * F.cross_entropy(self.model(x), y.repeat(self.members))

    def configure_optimizers(self) -> Any:
        """Return the optimiser and its schedule."""
        return optimiser_and_schedule(self.model, self.lr, self.weight_decay, self.steps)

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        """Return every member's logits, (members, examples, classes)."""
        self.eval()
        batches = [self.model(part).unflatten(0, (self.members, -1)) for part in x.split(2048)]
        return torch.cat(batches, dim=1)


def loader(data: Data, how: How) -> DataLoader[Any]:
    """Return shuffled training batches; ``quick`` indexes a batch at once."""
    train = TensorDataset(torch.from_numpy(data["train_x"]), torch.from_numpy(data["train_y"]))
    if how == "quick":
        sampler = BatchSampler(RandomSampler(train), BATCH, drop_last=True)
        return DataLoader(train, sampler=sampler, batch_size=None)
    return DataLoader(train, batch_size=BATCH, shuffle=True, drop_last=True)


def routine(model: nn.Module, lr: float, weight_decay: float, steps: int) -> ClassificationRoutine:
    """Return torch-uncertainty's own Lightning module for a BatchEnsemble."""

    def recipe(network: nn.Module) -> Any:
        return optimiser_and_schedule(network, lr, weight_decay, steps)

    return ClassificationRoutine(
        model=model,
        num_classes=CLASSES,
        loss=nn.CrossEntropyLoss(),
        is_ensemble=True,
        format_batch_fn=RepeatTarget(MEMBERS),
        optim_recipe=recipe,
    )


def fit(config: Config, data: Data, how: How = "quick") -> Classifier:
    """Train the network that a configuration says."""
    torch.manual_seed(config["seed"])
    batches = loader(data, how)
    values = config["lr"], config["weight_decay"], EPOCHS * len(batches)
    model = Classifier(config["kind"], data["train_x"].shape[1], *values)
    trainer = lightning.Trainer(
        max_epochs=EPOCHS,
        accelerator="cpu",
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )
    trainer.fit(routine(model.model, *values) if how == "routine" else model, batches)
    return model


def nll(logits: Tensor, y: Tensor) -> float:
    """Return the NLL of the mean of the members' probabilities, nats."""
    log_p = logits.log_softmax(-1).logsumexp(0) - np.log(len(logits))
    return F.nll_loss(log_p, y).item()


def trial(config: Config, data: Data, how: How = "quick") -> dict[str, float]:
    """Train, predict and store one trial; return its objective and what it took."""
    began = time.time()
    model = fit(config, data, how)
    fitted = time.time()
    splits = ("val", "test", "shift", "ood") if config["confirm"] else ("val",)
    found = {split: model.logits(torch.from_numpy(data[f"{split}_x"])) for split in splits}
    scores = {
        f"{split}_nll": nll(logits, torch.from_numpy(data[f"{split}_y"]))
        for split, logits in found.items()
        if split != "ood"
    }
    name = f"{config['kind']}-{config['seed']}-{config['lr']:.6g}-{config['confirm']}.npz"
    stored = {split: logits.half().numpy() for split, logits in found.items()}
    np.savez(Path(config["out"], name), **stored)
    return scores | {"began": began, "fit": fitted - began, "ended": time.time()}


def trainable(config: Config, data: Data) -> None:
    """Run a trial in a worker: a point of the search, or a job that is given whole."""
    be_quiet()
    config = config.get("job", {}) | {"out": config["out"]} if "job" in config else config
    tune.report(trial(config, data) | {"kind": config["kind"]})


def be_quiet() -> None:
    """Keep Lightning's remarks from the screen."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")


def tuned(space: Config, data: Data, out: Path, **how: Any) -> list[dict[str, Any]]:
    """Run trials under Tune, one per core, and return what each reported, with its config."""
    tuner = tune.Tuner(
        tune.with_resources(tune.with_parameters(trainable, data=data), {"cpu": 1}),
        param_space=space | {"out": str(out)},
        tune_config=tune.TuneConfig(
            metric="val_nll", mode="min", max_concurrent_trials=SLOTS, reuse_actors=True, **how
        ),
        run_config=tune.RunConfig(storage_path=str(out / "ray"), verbose=0),
    )
    results = tuner.fit()
    if results.errors:
        raise results.errors[0]
    return [result.metrics for result in results]


def searched(kind: str, data: Data, out: Path) -> tuple[list[dict[str, Any]], Config]:
    """Search one network's values and run the best again; return all trials and the values."""
    space = {
        "kind": kind,
        "seed": 0,
        "confirm": False,
        "lr": tune.loguniform(3e-2, 1.0),
        "weight_decay": tune.loguniform(1e-6, 1e-2),
    }
    found = tuned(space, data, out, search_alg=OptunaSearch(), num_samples=TRIALS)
    first = sorted(found, key=lambda metrics: metrics["val_nll"])[:RESCORED]
    again = [metrics["config"] | {"seed": 1} for metrics in first]
    rescored = tuned({"job": tune.grid_search(again)}, data, out)
    before = {metrics["config"]["lr"]: metrics["val_nll"] for metrics in first}
    best = min(rescored, key=lambda m: m["val_nll"] + before[m["config"]["job"]["lr"]])
    return found + rescored, best["config"]["job"]


def study(data: Data, out: Path) -> list[dict[str, Any]]:
    """Search and confirm; return every trial."""
    every: list[dict[str, Any]] = []
    best: dict[str, Config] = {}
    for kind in ("batch_ensemble", "single"):
        found, best[kind] = searched(kind, data, out)
        every += found
    jobs = [
        best[tuned_as] | {"kind": arm, "seed": 100 + seed, "confirm": True}
        for seed in range(SEEDS)
        for arm, tuned_as in ARMS.items()
    ]
    return every + tuned({"job": tune.grid_search(jobs)}, data, out)


def judge(every: list[dict[str, Any]]) -> None:
    """Print each arm's mean NLL and a t-test against the single network."""
    confirmed = [m for m in every if "test_nll" in m]
    for split in ("test_nll", "shift_nll"):
        of = {arm: [m[split] for m in confirmed if m["kind"] == arm] for arm in ARMS}
        for arm, values in of.items():
            p = ttest_ind(values, of["single"], equal_var=False).pvalue
            print(f"{split} {arm}: {np.mean(values):.3f} (p {p:.2g})")


def main(data_file: str, folder: str) -> int:
    """Run the study and print, as the last line, when each trial was run."""
    warnings.simplefilter("ignore")
    ray.init(num_cpus=SLOTS, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    out = Path(folder)
    with np.load(data_file) as arrays:
        every = study(dict(arrays), out)
    judge(every)
    print(json.dumps([[m["began"], m["ended"], m["fit"]] for m in every]))
    ray.shutdown()
    return 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
