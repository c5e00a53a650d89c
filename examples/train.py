"""A small network learns to tell the arms of a spiral apart, watched by wandb.

    python examples/train.py
    python examples/train.py --checkpoint spiral.npz   # goes on where it was stopped or killed

numpy and wandb are all it needs.
"""

# For lens-ship no line is needed in here: it is on when PRIMUS_LENS_WANDB_OUTPUT_PATH is set.

import argparse
import json
import logging
import logging.handlers
import os
import time
from pathlib import Path

import numpy as np
import wandb

ARMS = 3
POINTS = 2000  # of each arm
BATCH = 768
HIDDEN = 192
LEARNING_RATE = 5e-4
WARMUP = 100  # steps
VALIDATE_EVERY = 50
SAVE_EVERY = 100
TELL_EVERY = 10
LOG_BYTES = 16384  # then the log is rotated
LOGS_KEPT = 1000


def spiral(rng):
    """Points of interleaved spiral arms and the arm that each belongs to."""
    labels = np.repeat(np.arange(ARMS), POINTS)
    radius = np.tile(np.linspace(0.05, 1.0, POINTS), ARMS)
    angle = 9 * radius + 2 * np.pi * labels / ARMS + rng.normal(0, 0.3, radius.size)
    return np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1), labels


class Network:
    """Two layers, ReLU between them, softmax behind, trained by Adam."""

    def __init__(self, rng):
        self.weights = {
            "w1": rng.normal(0, 1.0, (2, HIDDEN)),
            "b1": np.zeros(HIDDEN),
            "w2": rng.normal(0, 0.1, (HIDDEN, ARMS)),
            "b2": np.zeros(ARMS),
        }
        self.mean = {name: np.zeros_like(w) for name, w in self.weights.items()}
        self.square = {name: np.zeros_like(w) for name, w in self.weights.items()}

    def forward(self, x):
        """The hidden layer and the probability of each arm."""
        hidden = np.maximum(x @ self.weights["w1"] + self.weights["b1"], 0)
        scores = hidden @ self.weights["w2"] + self.weights["b2"]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return hidden, odds / odds.sum(axis=1, keepdims=True)

    def score(self, x, y):
        """Mean cross-entropy and accuracy."""
        return judge(self.forward(x)[1], y)

    def gradients(self, x, y):
        """Loss, accuracy and the gradient of every weight for one batch."""
        hidden, chance = self.forward(x)
        loss, accuracy = judge(chance, y)
        error = chance.copy()
        error[np.arange(len(y)), y] -= 1
        error /= len(y)
        back = (error @ self.weights["w2"].T) * (hidden > 0)
        grads = {"w1": x.T @ back, "b1": back.sum(0), "w2": hidden.T @ error, "b2": error.sum(0)}
        return loss, accuracy, grads

    def update(self, grads, rate, step):
        """One step of Adam; `step` counts from 0."""
        for name, grad in grads.items():
            self.mean[name] += 0.1 * (grad - self.mean[name])
            self.square[name] += 0.001 * (grad**2 - self.square[name])
            mean = self.mean[name] / (1 - 0.9 ** (step + 1))
            square = self.square[name] / (1 - 0.999 ** (step + 1))
            self.weights[name] -= rate * mean / (np.sqrt(square) + 1e-8)


def judge(chance, y):
    """Mean cross-entropy and accuracy of these probabilities."""
    right = chance[np.arange(len(y)), y]
    return float(-np.log(right + 1e-12).mean()), float((chance.argmax(axis=1) == y).mean())


def save(path, network, step, rng):
    """Write the checkpoint beside its place, then move it there: a kill leaves the old one."""
    parts = {"weights": network.weights, "mean": network.mean, "square": network.square}
    arrays = {f"{part}/{name}": w for part, named in parts.items() for name, w in named.items()}
    state = json.dumps({"step": step, "rng": rng.bit_generator.state})
    beside = path.with_name(f"{path.name}.new")
    with open(beside, "wb") as file:
        np.savez(file, state=np.array(state), **arrays)
    os.replace(beside, path)


def load(path, network, rng):
    """Take everything back from the checkpoint; return the step to go on with."""
    with np.load(path) as arrays:
        for part in ("weights", "mean", "square"):
            for name in network.weights:
                getattr(network, part)[name] = arrays[f"{part}/{name}"]
        state = json.loads(str(arrays["state"]))
    rng.bit_generator.state = state["rng"]
    return state["step"]


def arguments():
    """What the command line says."""
    parser = argparse.ArgumentParser(description="Train a small network on a spiral.")
    parser.add_argument("--seconds", type=float, default=20.0, help="how long to train [20]")
    parser.add_argument("--steps", type=int, help="last step at the latest [no limit]")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--checkpoint", type=Path, help="file to save to and to resume from")
    parser.add_argument("--log", type=Path, help="file for a log of the training")
    parser.add_argument("--json", action="store_true", help="print what was logged as JSON lines")
    return parser.parse_args()


def start_log(path):
    """Write what `logging.info` says to a file that is rotated."""
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=LOG_BYTES, backupCount=LOGS_KEPT, encoding="utf-8"
    )
    line = "%(asctime)s %(process)d %(levelname)s %(message)s"
    logging.basicConfig(handlers=[handler], level=logging.INFO, format=line)


def main():
    """Train until the time or the steps are over."""
    args = arguments()
    if args.log:
        start_log(args.log)
    rng = np.random.default_rng(args.seed)
    x, y = spiral(rng)
    order = rng.permutation(len(y))
    train, validation = order[: -len(y) // 5], order[-len(y) // 5 :]
    network = Network(rng)
    step = 0
    if args.checkpoint and args.checkpoint.exists():
        step = load(args.checkpoint, network, rng)

    wandb.init(
        project="spiral",
        mode="offline",
        settings=wandb.Settings(console="off", silent=True),
        config={
            "seed": args.seed,
            "resumed_at": step,
            "batch_size": BATCH,
            "model": {"hidden": HIDDEN, "activation": "relu"},
            "optimizer": {"name": "adam", "lr": LEARNING_RATE, "warmup": WARMUP},
        },
    )

    def log(data, commit=True):
        wandb.log(data, step=step, commit=commit)
        if args.json:
            print(json.dumps({"step": step, "data": data}), flush=True)
        elif commit and step % 200 == 0:
            print(f"step {step:6d}  loss {data['loss']:.4f}  accuracy {data['accuracy']:.3f}")

    end = time.monotonic() + args.seconds
    while time.monotonic() < end and (args.steps is None or step < args.steps):
        start = time.perf_counter()
        rate = LEARNING_RATE * min(1.0, (step + 1) / WARMUP)
        batch = rng.choice(train, BATCH, replace=False)
        loss, accuracy, grads = network.gradients(x[batch], y[batch])
        network.update(grads, rate, step)
        norm = float(np.sqrt(sum((grad**2).sum() for grad in grads.values())))

        if step % VALIDATE_EVERY == 0:
            loss_there, accuracy_there = network.score(x[validation], y[validation])
            log({"validation": {"loss": loss_there, "accuracy": accuracy_there}}, commit=False)
        log(
            {
                "loss": loss,
                "accuracy": accuracy,
                "lr": rate,
                "grad_norm": norm,
                "samples_per_second": BATCH / (time.perf_counter() - start),
            }
        )

        if step % TELL_EVERY == 0:
            logging.info("step %d: loss %.4f, accuracy %.3f", step, loss, accuracy)

        step += 1
        if args.checkpoint and step % SAVE_EVERY == 0:
            save(args.checkpoint, network, step, rng)

    wandb.finish()


if __name__ == "__main__":
    main()
